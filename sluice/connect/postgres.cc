// requires: libpqxx
#include "sluice/connect/postgres.h"

#include <charconv>
#include <cmath>
#include <pqxx/pqxx>
#include <pqxx/tablewriter>

namespace sluice::detail {
namespace {

// Temporary, so of this connection alone.
const std::string rows_table = "sluice_rows";
const std::string row_number = "sluice_row";

void append_text(std::int64_t value, std::string& to) { to += std::to_string(value); }
void append_text(double value, std::string& to) {
  if (std::isnan(value)) {
    to += "NaN";  // its sign, which would be written, is nothing that the server knows
    return;
  }
  char text[64];
  to.append(text, std::to_chars(text, text + sizeof text, value).ptr);
}

/// A field of a line of COPY: https://www.postgresql.org/docs/15/sql-copy.html, "Text Format". Bytes are those of
/// UTF-8, so none of another character looks like these.
void append_copied(const SqlField& field, std::string& line) {
  if (const auto* number = std::get_if<std::int64_t>(&field)) {
    append_text(*number, line);
  } else if (const auto* real = std::get_if<double>(&field)) {
    append_text(*real, line);
  } else if (const auto* text = std::get_if<std::string_view>(&field)) {
    for (const char c : *text) {
      switch (c) {
        case '\\': line += "\\\\"; break;
        case '\n': line += "\\n"; break;
        case '\r': line += "\\r"; break;
        case '\t': line += "\\t"; break;
        default: line += c;
      }
    }
  } else {
    line += "\\N";
  }
}

/// The same for a parameter of a statement, none of which is NULL.
std::string parameter_text(const SqlField& field) {
  if (const auto* text = std::get_if<std::string_view>(&field)) return std::string(*text);
  std::string made;
  append_text(std::get<std::int64_t>(field), made);
  return made;
}

class Postgres : public SqlDatabase {
  /// Errors of the library as ours.
  template <class F>
  auto call(const F& f) {
    try {
      return f();
    } catch (const pqxx::broken_connection& error) {
      throw SqlConnectionLost(error.what());
    } catch (const pqxx::in_doubt_error& error) {
      throw SqlConnectionLost(error.what());
    } catch (const pqxx::statement_completion_unknown& error) {
      throw SqlConnectionLost(error.what());
    } catch (const pqxx::pqxx_exception& error) {
      // Some of its functions, such as COPY's, tell of a lost connection by an error of another kind, and before the
      // connection itself knows. It does when the server has been asked for something more: to abort.
      transaction_.reset();
      if (connection_ == nullptr || !connection_->is_open()) throw SqlConnectionLost(error.base().what());
      throw Error(Code::database_failed, {.why = name_ + ": " + error.base().what()});
    }
  }

 public:
  explicit Postgres(std::string connection) : connection_string_(std::move(connection)) {}
  ~Postgres() override { disconnect(); }

  // The connection string may hold a password.
  std::string name() const override { return name_; }

  void connect() override {
    try {
      connection_ = std::make_unique<pqxx::connection>(connection_string_);
      name_ = "postgres " + std::string(connection_->dbname());
      keep_broken(*connection_);
      pqxx::nontransaction session(*connection_);
      session.exec(
          "select set_config('synchronous_commit', 'on', false) "
          "where current_setting('synchronous_commit') = 'off'");
      session.exec("set client_min_messages = warning");  // "relation exists, skipping"
      session.exec("set client_encoding = 'UTF8'");       // see append_copied
    } catch (const pqxx::pqxx_exception& error) {
      disconnect();
      throw SqlConnectionLost(error.base().what());
    }
  }

  void disconnect() noexcept override {
    transaction_.reset();
    connection_.reset();
    has_rows_table_ = false;
  }
  bool connected() const override { return connection_ != nullptr; }

  void begin() override {
    call([&] { transaction_ = std::make_unique<pqxx::work>(*connection_); });
  }
  void commit() override {
    call([&] { transaction_->commit(); });
    transaction_.reset();
  }
  void rollback() noexcept override {
    has_rows_table_ = false;  // it may have been made by the transaction that goes
    transaction_.reset();     // aborts; where that fails the connection is broken, and the server aborts
    if (connection_ != nullptr && !connection_->is_open()) disconnect();
  }

  std::uint64_t change(const std::string& text, const std::vector<SqlField>& parameters) override {
    return call([&] { return static_cast<std::uint64_t>(run(text, parameters).affected_rows()); });
  }

  std::optional<std::int64_t> ask(const std::string& text, const std::vector<SqlField>& parameters) override {
    return call([&]() -> std::optional<std::int64_t> {
      const pqxx::result rows = run(text, parameters);
      if (rows.empty()) return std::nullopt;
      return rows[0][0].as<std::int64_t>();
    });
  }

  std::vector<std::string> columns(const std::string& table) override {
    return call([&] {
      std::vector<std::string> names;
      const std::string quoted = sql_table_name(table);
      const pqxx::result rows =
          run("select attname from pg_attribute where attrelid = to_regclass($1) "
              "and attnum > 0 and not attisdropped order by attnum",
              {quoted});
      for (const pqxx::row& row : rows) names.push_back(row[0].as<std::string>());
      return names;
    });
  }

  // The server looks for the key's index when it plans a statement.
  void check_insert(const SqlTable& table) override {
    std::string nulls;
    for (std::size_t i = 0; i < table.columns.size(); ++i) nulls += i == 0 ? "null" : ", null";
    call([&] { run("explain " + sql_insert(table, "values (" + nulls + ")"), {}); });
  }

  void insert(const SqlTable& table, SqlRows& rows) override {
    call([&] {
      if (table.key.empty()) {
        copy(sql_table_name(table.name), table.columns, rows, false);
        return;
      }
      // One statement must not change a row twice, and the last one counts.
      const std::string all = sql_names(table.columns);
      if (!has_rows_table_) {
        run("create temporary table if not exists " + rows_table + " on commit delete rows as select " + all +
                ", 0::bigint as " + row_number + " from " + sql_table_name(table.name) + " with no data",
            {});
        has_rows_table_ = true;
      }
      copy(rows_table, table.columns, rows, true);
      const std::string key = sql_names(table.key);
      run(sql_insert(table, "select distinct on (" + key + ") " + all + " from " + rows_table + " order by " + key +
                                ", " + row_number + " desc"),
          {});
    });
  }

 private:
  // This version of the library would else make a connection anew by itself, without settings and temporary tables. The
  // call is deprecated because later versions never do that.
  static void keep_broken(pqxx::connection& connection) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    connection.inhibit_reactivation(true);
#pragma GCC diagnostic pop
  }

  pqxx::result run(const std::string& text, const std::vector<SqlField>& parameters) {
    std::vector<std::string> values;
    for (const SqlField& parameter : parameters) values.push_back(parameter_text(parameter));
    if (values.empty()) return transaction_->exec(text);
    return transaction_->exec_params(text, pqxx::prepare::make_dynamic_params(values));
  }

  // The class is deprecated in favour of one that takes rows only whose length is known to the compiler.
  void copy(const std::string& table, std::vector<std::string> columns, SqlRows& rows, bool numbered) {
    for (std::string& column : columns) column = sql_name(column);
    if (numbered) columns.push_back(row_number);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    pqxx::tablewriter out(*transaction_, table, columns.begin(), columns.end());
#pragma GCC diagnostic pop
    std::vector<SqlField> row;
    std::string line;
    std::int64_t number = 0;
    while (rows.next(row)) {
      if (numbered) row.emplace_back(++number);
      line.clear();
      for (const SqlField& field : row) {
        if (&field != row.data()) line += '\t';
        append_copied(field, line);
      }
      out.write_raw_line(line);
    }
    out.complete();
  }

  const std::string connection_string_;
  std::string name_ = "postgres";
  std::unique_ptr<pqxx::connection> connection_;
  std::unique_ptr<pqxx::work> transaction_;
  bool has_rows_table_ = false;
};

}  // namespace

std::unique_ptr<SqlDatabase> postgres_database(std::string connection) {
  return std::make_unique<Postgres>(std::move(connection));
}

}  // namespace sluice::detail
