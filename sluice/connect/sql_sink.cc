#include "sluice/connect/sql_sink.h"

#include <algorithm>
#include <bit>

#include "sluice/runtime/kill_point.h"

namespace sluice::detail {
namespace {

// With pauses that double from 100 ms, 3 s in all: a server that is started again is back by then. A longer outage is
// the output's failure (StreamingOptions::output_tries, failed_output).
constexpr unsigned connection_tries = 6;
constexpr Duration first_pause = std::chrono::milliseconds(100);

enum class FieldKind : std::uint8_t { null, integer, real, text };

std::int64_t to_number(Time time) { return time.time_since_epoch().count(); }

bool has(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

// ---- Rows

void encode_sql(std::monostate, Encoder& out) { out.u8(static_cast<std::uint8_t>(FieldKind::null)); }
void encode_sql(std::int64_t value, Encoder& out) {
  out.u8(static_cast<std::uint8_t>(FieldKind::integer));
  out.u64(static_cast<std::uint64_t>(value));
}
void encode_sql(double value, Encoder& out) {
  out.u8(static_cast<std::uint8_t>(FieldKind::real));
  out.u64(std::bit_cast<std::uint64_t>(value));
}
void encode_sql(std::string_view value, Encoder& out) {
  out.u8(static_cast<std::uint8_t>(FieldKind::text));
  out.text(value);
}

bool SqlRows::next(std::vector<SqlField>& row) {
  while (part_ < parts_.size() && position_ == parts_[part_].size()) {
    ++part_;
    position_ = 0;
  }
  if (part_ == parts_.size()) return false;
  Decoder in(std::string_view(parts_[part_]).substr(position_));
  row.clear();
  for (std::size_t column = 0; column < columns_; ++column) {
    switch (static_cast<FieldKind>(in.u8())) {
      case FieldKind::null: row.emplace_back(); break;
      case FieldKind::integer: row.emplace_back(static_cast<std::int64_t>(in.u64())); break;
      case FieldKind::real: row.emplace_back(std::bit_cast<double>(in.u64())); break;
      case FieldKind::text: row.emplace_back(in.text()); break;
      default: in.fail_corrupt("a field of a row is of no known kind");
    }
  }
  position_ += in.position();
  return true;
}

// ---- Statements

std::string sql_name(std::string_view name) {
  std::string quoted = "\"";
  for (const char c : name) {
    if (c == '"') quoted += c;
    quoted += c;
  }
  return quoted + "\"";
}

std::string sql_table_name(std::string_view name) {
  const std::size_t dot = name.find('.');
  if (dot == name.npos) return sql_name(name);
  return sql_name(name.substr(0, dot)) + "." + sql_name(name.substr(dot + 1));
}

std::string sql_names(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + sql_name(name);
  return text;
}

std::string sql_insert(const SqlTable& table, const std::string& source) {
  std::string text = "insert into " + sql_table_name(table.name) + " (" + sql_names(table.columns) + ") " + source;
  if (table.key.empty()) return text;
  text += " on conflict (" + sql_names(table.key) + ") do ";
  std::string changes;
  for (const std::string& column : table.columns) {
    if (has(table.key, column)) continue;
    changes += (changes.empty() ? "" : ", ") + sql_name(column) + " = excluded." + sql_name(column);
  }
  return text + (changes.empty() ? "nothing" : "update set " + changes);
}

// ---- The output

SqlOutput::SqlOutput(std::unique_ptr<SqlDatabase> database, SqlTable table, std::size_t fields)
    : database_(std::move(database)), table_(std::move(table)) {
  const auto refuse = [this](const std::string& why) {
    throw Error(Code::bad_argument, {.why = "table \"" + table_.name + "\": " + why});
  };
  if (table_.name.empty()) refuse("it has no name");
  if (table_.columns.empty()) refuse("no columns are named");
  if (table_.columns.size() != fields) {
    refuse(std::to_string(table_.columns.size()) + " columns are named, and a row has " + std::to_string(fields) +
           " fields");
  }
  for (const std::string& column : table_.key) {
    if (!has(table_.columns, column)) refuse("\"" + column + "\" of the key is none of the columns");
  }
}

std::string SqlOutput::argument() const { return database_->name() + " " + table_.name; }

void SqlOutput::fail_replaced() {
  throw Error(Code::fenced, {.why = "in " + database_->name() + " output \"" + output_ + "\" of application \"" + app_ +
                                    "\" belongs to a newer run. If the checkpoint directory was removed on purpose, "
                                    "delete its row in sluice_outputs"});
}

// Where the connection is lost all of it is done again, after a pause: f asks first for what it would do.
template <class F>
void SqlOutput::in_transaction(unsigned tries, const F& f) {
  Duration pause = first_pause;
  for (;; pause *= 2) {
    try {
      if (!database_->connected()) database_->connect();
      database_->begin();
      f();
      kill_point("sink.before_database_commit");
      database_->commit();
      kill_point("sink.after_database_commit");
      return;
    } catch (const SqlConnectionLost& lost) {
      database_->disconnect();
      if (--tries == 0) throw Error(Code::database_failed, {.why = database_->name() + ": " + lost.what()});
    } catch (...) {
      if (database_->connected()) database_->rollback();
      throw;
    }
    runtime_->wait_for(pause);
  }
}

void SqlOutput::check_table() {
  const auto refuse = [this](const std::string& why) {
    throw Error(Code::database_failed, {.why = database_->name() + ": " + why});
  };
  const std::vector<std::string> there = database_->columns(table_.name);
  if (there.empty()) refuse("there is no table \"" + table_.name + "\"");
  const auto missing = std::find_if(table_.columns.begin(), table_.columns.end(),
                                    [&there](const std::string& column) { return !has(there, column); });
  if (missing != table_.columns.end()) {
    refuse("table \"" + table_.name + "\" has no column \"" + *missing + "\"; it has " + sql_names(there));
  }
  database_->check_insert(table_);
}

void SqlOutput::take_over(const SinkStart& start) {
  const std::vector<SqlField> key = {app_, output_};
  database_->change("insert into sluice_outputs (app, output, epoch) values ($1, $2, 0) on conflict do nothing", key);
  // Without a checkpoint directory the newest run is the one that counts.
  const auto asked = static_cast<std::int64_t>(start.epoch);
  const std::uint64_t changed =
      asked == 0
          ? database_->change("update sluice_outputs set epoch = epoch + 1 where app = $1 and output = $2", key)
          : database_->change("update sluice_outputs set epoch = $1 where app = $2 and output = $3 and epoch <= $1",
                              {asked, app_, output_});
  if (changed == 0) fail_replaced();
  // Such a run numbers its batches anew, and none of an earlier one comes again.
  if (asked == 0) database_->change("delete from sluice_batches where app = $1 and output = $2", key);
  epoch_ = database_->ask("select epoch from sluice_outputs where app = $1 and output = $2", key).value();
}

void SqlOutput::start(const SinkStart& start) {
  runtime_ = &start.runtime;
  app_ = start.app;
  output_ = start.output;
  in_transaction(1, [&] {
    check_table();
    // Looked for first: who may not create tables may use those that were made for them.
    if (database_->columns("sluice_outputs").empty()) {
      database_->change(
          "create table if not exists sluice_outputs (app text not null, output text not null, "
          "epoch bigint not null, primary key (app, output))",
          {});
    }
    if (database_->columns("sluice_batches").empty()) {
      database_->change(
          "create table if not exists sluice_batches (app text not null, output text not null, "
          "batch bigint not null, epoch bigint not null, primary key (app, output, batch))",
          {});
    }
    take_over(start);
  });
}

void SqlOutput::commit(const SinkBatch& batch, const std::vector<std::string>& parts) {
  // Given again, an empty batch is empty again.
  if (std::all_of(parts.begin(), parts.end(), [](const std::string& part) { return part.empty(); })) return;
  in_transaction(connection_tries, [&] {
    // Holds the row until the end of the transaction: who replaces this run waits for it, or has been there before.
    const std::uint64_t mine =
        database_->change("update sluice_outputs set epoch = epoch where app = $1 and output = $2 and epoch = $3",
                          {app_, output_, epoch_});
    if (mine == 0) fail_replaced();
    const auto there = database_->ask("select 1 from sluice_batches where app = $1 and output = $2 and batch = $3",
                                      {app_, output_, to_number(batch.batch)});
    if (there.has_value()) return;
    SqlRows rows(parts, table_.columns.size());
    database_->insert(table_, rows);
    database_->change("insert into sluice_batches (app, output, batch, epoch) values ($1, $2, $3, $4)",
                      {app_, output_, to_number(batch.batch), epoch_});
    database_->change("delete from sluice_batches where app = $1 and output = $2 and batch < $3",
                      {app_, output_, to_number(batch.settled)});
  });
}

void SqlOutput::close() { database_->disconnect(); }

}  // namespace sluice::detail
