// Rows into a table of an SQLite database.
//
//     counts.save_to(sluice::sqlite_sink<Count>("/data/counts.db", {.name = "counts", .columns = {"word", "n"}},
//                                               [](const Count& c) { return std::tuple(c.first, c.second); }))
//         .name("counts");
//
// What becomes of crashes, retries and other drivers: sql_sink.h.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "sluice/connect/sql_sink.h"

namespace sluice {

/// See sqlite_sink.
struct SqliteOptions {
  /// How long a transaction waits for another program that holds the database. Longer: the output fails (SLU-414).
  std::chrono::milliseconds busy_timeout{5000};
};

namespace detail {
std::unique_ptr<SqlDatabase> sqlite_database(std::string path, const SqliteOptions& options);
}  // namespace detail

/// A sink of records as rows: to_row(record) makes a std::tuple of integers, double, std::string, std::string_view and
/// std::optional of these, one element for each column. It runs in tasks (captures: see the guide, "Functions that
/// travel"). Texts are stored byte for byte; a double that is no number becomes NULL.
///
/// Guarantee: transactional. The rows of a batch are there as a whole, once, in the order of partitions; with a key
/// each replaces the one that has it. They are on the disk when the batch is noted (synchronous = full, whatever the
/// database says).
/// Cost:      the rows go through the driver, which inserts them on its own thread, and a sync a batch that has rows.
/// Errors:    here: SLU-109. At start(): SLU-414 when there is no such database, table or column, or the key is not
/// unique; SLU-209. Later: SLU-414 when the database refuses a row or is held by others, SLU-209 when another driver
/// has taken over; nothing of the batch stays.
template <class T, class F>
std::shared_ptr<Sink<T>> sqlite_sink(std::string path, SqlTable table, F to_row, SqliteOptions options = {}) {
  return std::make_shared<detail::SqlSink<T, F>>(detail::sqlite_database(std::move(path), options), std::move(table),
                                                 std::move(to_row));
}

}  // namespace sluice
