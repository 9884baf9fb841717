// Sinks that write rows into a table of a database: what all databases share. A program includes sqlite.h or
// postgres.h.
//
// Tasks make rows of records and encode them. The driver inserts the rows of all partitions of a batch by one
// transaction, together with a row that names the batch, in a table of sluice's own:
//
//     sluice_outputs (app, output, epoch)           who writes: the run with that epoch, and none before it
//     sluice_batches (app, output, batch, epoch)    batches whose rows are there; batch time in nanoseconds since 1970
//
// So a batch is there as a whole, once, whatever is killed when: who does not know whether a transaction took effect
// asks for the batch's row. Rows of batches that will never come again (SinkBatch::settled) go by the same
// transactions, so there are few. A driver that has been replaced finds the epoch of another one, and ends with
// SLU-209. The tables are a format (docs/formats.md).
//
// Another database is another class SqlDatabase in a file pair of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "sluice/api/sink.h"

namespace sluice {

/// The table that a sink writes to. It must be there at start(), with these columns.
struct SqlTable {
  /// "counts", or "schema.counts".
  std::string name;
  /// One for each element of the tuples, in their order.
  std::vector<std::string> columns;
  /// Empty: each record becomes a row. Else the columns, a primary key or unique, by which a row replaces one that is
  /// there; of several rows of a batch the last one counts.
  std::vector<std::string> key{};
};

namespace detail {

/// A field of a row; nothing is NULL.
using SqlField = std::variant<std::monostate, std::int64_t, double, std::string_view>;

/// Appends a field to an encoded row.
void encode_sql(std::monostate, Encoder& out);
void encode_sql(std::int64_t value, Encoder& out);
void encode_sql(double value, Encoder& out);
void encode_sql(std::string_view value, Encoder& out);

template <class T>
inline constexpr bool is_sql_value = std::is_arithmetic_v<T> || std::is_convertible_v<const T&, std::string_view>;
template <class T>
inline constexpr bool is_sql_value<std::optional<T>> = is_sql_value<T>;

template <class T>
void encode_sql_value(const T& value, Encoder& out) {
  if constexpr (std::is_floating_point_v<T>) {
    encode_sql(static_cast<double>(value), out);
  } else if constexpr (std::is_arithmetic_v<T>) {
    static_assert(sizeof(T) < 8 || std::is_signed_v<T>,
                  "sluice: databases have no unsigned numbers of 64 bits; cast it");
    encode_sql(static_cast<std::int64_t>(value), out);
  } else if constexpr (std::is_convertible_v<const T&, std::string_view>) {
    encode_sql(std::string_view(value), out);
  } else if (value.has_value()) {
    encode_sql_value(*value, out);
  } else {
    encode_sql(std::monostate{}, out);
  }
}

template <class T>
struct SqlTuple : std::false_type {};
template <class... Fields>
struct SqlTuple<std::tuple<Fields...>> : std::bool_constant<(is_sql_value<Fields> && ...)> {
  static constexpr std::size_t size = sizeof...(Fields);
};

/// The rows of a batch, one after the other.
class SqlRows {
 public:
  /// `parts` must outlive it: fields point into them.
  SqlRows(const std::vector<std::string>& parts, std::size_t columns) : parts_(parts), columns_(columns) {}
  /// False at the end. Errors: SLU-301, SLU-302.
  bool next(std::vector<SqlField>& row);

 private:
  const std::vector<std::string>& parts_;
  const std::size_t columns_;
  std::size_t part_ = 0;
  std::size_t position_ = 0;
};

/// The connection is gone; whether what was asked for last took effect is not known.
struct SqlConnectionLost : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A database with one connection. Statements are those that SQLite and PostgreSQL both know; parameters are $1, $2, in
/// the order in which they first occur. Threads: one at a time. Errors: SLU-414; SqlConnectionLost.
class SqlDatabase {
 public:
  virtual ~SqlDatabase() = default;
  /// For errors: which database this is, without a password.
  virtual std::string name() const = 0;
  /// What is committed on this connection must be on the disk when `commit` returns.
  virtual void connect() = 0;
  virtual void disconnect() noexcept = 0;
  virtual bool connected() const = 0;
  /// The transaction may wait for others here or at its first change.
  virtual void begin() = 0;
  virtual void commit() = 0;
  /// Also where nothing was begun. May disconnect.
  virtual void rollback() noexcept = 0;
  /// How many rows were changed.
  virtual std::uint64_t change(const std::string& statement, const std::vector<SqlField>& parameters) = 0;
  /// The first column of the first row; nothing without a row.
  virtual std::optional<std::int64_t> ask(const std::string& statement, const std::vector<SqlField>& parameters) = 0;
  /// Of a table; none: there is no such table.
  virtual std::vector<std::string> columns(const std::string& table) = 0;
  /// Fails where `insert` would fail for every row, such as for a key that is not unique. Changes nothing.
  virtual void check_insert(const SqlTable& table) = 0;
  /// In a transaction.
  virtual void insert(const SqlTable& table, SqlRows& rows) = 0;
};

/// "name", with what is in it doubled; of "schema.table" each part.
std::string sql_name(std::string_view name);
std::string sql_table_name(std::string_view name);
/// Several, with commas between them.
std::string sql_names(const std::vector<std::string>& names);
/// `insert into table (columns) SOURCE on conflict ...`, as the table's key says.
std::string sql_insert(const SqlTable& table, const std::string& source);

/// The sink of encoded rows.
class SqlOutput {
 public:
  /// Errors: SLU-109 when table and tuple do not fit.
  SqlOutput(std::unique_ptr<SqlDatabase> database, SqlTable table, std::size_t fields);
  void start(const SinkStart& start);
  void commit(const SinkBatch& batch, const std::vector<std::string>& parts);
  void close();
  /// Database and table.
  std::string argument() const;

 private:
  template <class F>
  void in_transaction(unsigned tries, const F& f);
  void check_table();
  void take_over(const SinkStart& start);
  [[noreturn]] void fail_replaced();

  const std::unique_ptr<SqlDatabase> database_;
  const SqlTable table_;
  Runtime* runtime_ = nullptr;
  std::string app_;
  std::string output_;
  std::int64_t epoch_ = 0;
};

template <class T, class F>
class SqlWriters : public SinkWriters<T> {
  class Writer : public SinkWriter<T> {
   public:
    explicit Writer(const F& to_row) : to_row_(to_row) {}
    void write(std::span<const T> records) override {
      for (const T& record : records) {
        std::apply([this](const auto&... fields) { (encode_sql_value(fields, rows_), ...); }, to_row_(record));
      }
    }
    std::string finish() override { return rows_.take(); }

   private:
    const F& to_row_;
    Encoder rows_;
  };

 public:
  explicit SqlWriters(Fn<F> to_row) : to_row_(std::move(to_row)) {}
  std::unique_ptr<SinkWriter<T>> open(const SinkPartition&) const override {
    return std::make_unique<Writer>(to_row_.f);
  }

 private:
  Fn<F> to_row_;
};

template <class T, class F>
class SqlSink : public Sink<T> {
  using Row = std::remove_cvref_t<std::invoke_result_t<const F&, const T&>>;
  static_assert(SqlTuple<Row>::value,
                "sluice: this function makes a row of a record, and a row is a std::tuple of numbers, texts "
                "(std::string, std::string_view) and std::optional of those");

 public:
  SqlSink(std::unique_ptr<SqlDatabase> database, SqlTable table, F to_row)
      : output_(std::move(database), std::move(table), SqlTuple<Row>::size), to_row_(std::move(to_row)) {}
  Contract contract() const override { return Contract::transactional; }
  std::string argument() const override { return output_.argument(); }
  void start(const SinkStart& start) override { output_.start(start); }
  Shipped<SinkWriters<T>> writers() const override { return ship_writers<T, SqlWriters<T, F>>(Fn<F>{to_row_}); }
  std::string commit(const SinkBatch& batch, const std::vector<std::string>& parts) override {
    output_.commit(batch, parts);
    return {};  // the database knows what it has
  }
  void close() override { output_.close(); }

 private:
  SqlOutput output_;
  const F to_row_;
};

}  // namespace detail
}  // namespace sluice
