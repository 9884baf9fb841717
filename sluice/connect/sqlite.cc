// requires: sqlite3
#include "sluice/connect/sqlite.h"

#include <sqlite3.h>

#include <map>

namespace sluice::detail {
namespace {

class Sqlite : public SqlDatabase {
 public:
  Sqlite(std::string path, const SqliteOptions& options) : path_(std::move(path)), options_(options) {}
  ~Sqlite() override { disconnect(); }

  std::string name() const override { return path_; }

  void connect() override {
    // Not created: a wrong path would be a new, empty database.
    const int result = sqlite3_open_v2(path_.c_str(), &database_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
    if (result != SQLITE_OK) {
      const std::string why = database_ == nullptr ? sqlite3_errstr(result) : sqlite3_errmsg(database_);
      disconnect();
      throw Error(Code::database_failed, {.why = path_ + ": " + why});
    }
    sqlite3_busy_timeout(database_, static_cast<int>(options_.busy_timeout.count()));
    run("pragma synchronous = full");
  }

  void disconnect() noexcept override {
    for (const auto& [text, statement] : statements_) sqlite3_finalize(statement);
    statements_.clear();
    sqlite3_close(database_);
    database_ = nullptr;
  }

  bool connected() const override { return database_ != nullptr; }

  // At once for writing: a transaction that read first could not wait for another writer, but would fail.
  void begin() override { run("begin immediate"); }
  void commit() override { run("commit"); }
  void rollback() noexcept override {
    // Some errors have rolled back already.
    if (database_ == nullptr || sqlite3_get_autocommit(database_) != 0) return;
    // Where even this fails, closing the connection rolls back; the next use opens it anew.
    if (sqlite3_exec(database_, "rollback", nullptr, nullptr, nullptr) != SQLITE_OK) disconnect();
  }

  std::uint64_t change(const std::string& text, const std::vector<SqlField>& parameters) override {
    const Running running(*this, text, parameters);
    while (running.step()) {
    }
    return static_cast<std::uint64_t>(sqlite3_changes(database_));
  }

  std::optional<std::int64_t> ask(const std::string& text, const std::vector<SqlField>& parameters) override {
    const Running running(*this, text, parameters);
    if (!running.step()) return std::nullopt;
    return sqlite3_column_int64(running.statement(), 0);
  }

  std::vector<std::string> columns(const std::string& table) override {
    const std::size_t dot = table.find('.');
    const std::string schema = dot == table.npos ? "main" : table.substr(0, dot);
    const std::string name = dot == table.npos ? table : table.substr(dot + 1);
    const Running running(*this, "select name from pragma_table_info($1, $2)", {name, schema});
    std::vector<std::string> names;
    while (running.step()) {
      names.emplace_back(reinterpret_cast<const char*>(sqlite3_column_text(running.statement(), 0)));
    }
    return names;
  }

  void check_insert(const SqlTable& table) override { prepared(insert_text(table)); }

  void insert(const SqlTable& table, SqlRows& rows) override {
    const std::string text = insert_text(table);
    std::vector<SqlField> row;
    while (rows.next(row)) {
      const Running running(*this, text, row);
      while (running.step()) {
      }
    }
  }

 private:
  /// A statement from its first step on; may be used again afterwards.
  class Running {
   public:
    Running(Sqlite& database, const std::string& text, const std::vector<SqlField>& parameters)
        : database_(database), statement_(database.prepared(text)) {
      for (std::size_t i = 0; i < parameters.size(); ++i) bind(static_cast<int>(i) + 1, parameters[i]);
    }
    ~Running() {
      sqlite3_reset(statement_);  // tells once more what `step` has told
      sqlite3_clear_bindings(statement_);
    }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;

    /// True while there is a row.
    bool step() const {
      const int result = sqlite3_step(statement_);
      if (result == SQLITE_ROW) return true;
      if (result != SQLITE_DONE) database_.fail();
      return false;
    }
    sqlite3_stmt* statement() const { return statement_; }

   private:
    // Texts outlive the statement's run.
    void bind(int index, const SqlField& field) {
      int result = SQLITE_OK;
      if (const auto* number = std::get_if<std::int64_t>(&field)) {
        result = sqlite3_bind_int64(statement_, index, *number);
      } else if (const auto* real = std::get_if<double>(&field)) {
        result = sqlite3_bind_double(statement_, index, *real);
      } else if (const auto* text = std::get_if<std::string_view>(&field)) {
        // A null pointer would be NULL.
        const char* const data = text->empty() ? "" : text->data();
        result = sqlite3_bind_text64(statement_, index, data, text->size(), SQLITE_STATIC, SQLITE_UTF8);
      } else {
        result = sqlite3_bind_null(statement_, index);
      }
      if (result != SQLITE_OK) database_.fail();
    }

    Sqlite& database_;
    sqlite3_stmt* const statement_;
  };

  [[noreturn]] void fail() { throw Error(Code::database_failed, {.why = path_ + ": " + sqlite3_errmsg(database_)}); }

  void run(const char* text) {
    if (sqlite3_exec(database_, text, nullptr, nullptr, nullptr) != SQLITE_OK) fail();
  }

  static std::string insert_text(const SqlTable& table) {
    std::string values;
    for (std::size_t i = 1; i <= table.columns.size(); ++i) values += (i == 1 ? "$" : ", $") + std::to_string(i);
    return sql_insert(table, "values (" + values + ")");
  }

  sqlite3_stmt* prepared(const std::string& text) {
    sqlite3_stmt*& statement = statements_[text];
    if (statement != nullptr) return statement;
    if (sqlite3_prepare_v2(database_, text.c_str(), static_cast<int>(text.size()), &statement, nullptr) != SQLITE_OK) {
      statements_.erase(text);
      fail();
    }
    return statement;
  }

  const std::string path_;
  const SqliteOptions options_;
  sqlite3* database_ = nullptr;
  std::map<std::string, sqlite3_stmt*> statements_;
};

}  // namespace

std::unique_ptr<SqlDatabase> sqlite_database(std::string path, const SqliteOptions& options) {
  return std::make_unique<Sqlite>(std::move(path), options);
}

}  // namespace sluice::detail
