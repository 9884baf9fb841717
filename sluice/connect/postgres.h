// Rows into a table of a PostgreSQL database.
//
//     counts.save_to(sluice::postgres_sink<Count>("host=/run/postgresql dbname=shop",
//                                                 {.name = "counts", .columns = {"word", "n"}, .key = {"word"}},
//                                                 [](const Count& c) { return std::tuple(c.first, c.second); }))
//         .name("counts");
//
// What becomes of crashes, retries and other drivers: sql_sink.h.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "sluice/connect/sql_sink.h"

namespace sluice {

namespace detail {
std::unique_ptr<SqlDatabase> postgres_database(std::string connection);
}  // namespace detail

/// A sink of records as rows: to_row(record) makes a std::tuple of integers, double, std::string, std::string_view and
/// std::optional of these, one element for each column. It runs in tasks (captures: see the guide, "Functions that
/// travel"). `connection` is a connection string or URI of libpq; what it leaves out comes from its PG... variables,
/// and a password best from its password file. The driver waits for the server as long as `connect_timeout` and
/// `tcp_user_timeout` in it say; without them as long as TCP does. Fields are sent as text, so a column may have any
/// type that reads it. Texts are UTF-8 without NUL, whatever the encoding of the database.
///
/// Guarantee: transactional. The rows of a batch are there as a whole, once; with a key each replaces the one that has
/// it. They are durable when the batch is noted (synchronous_commit = on, where it is off). A connection that is lost
/// is made again with growing pauses, about 3 s in all; the batch's row then says whether the transaction took effect.
/// Cost:      the rows go through the driver, which copies them (COPY) into the table, or with a key into a temporary
/// one and from there by one statement. One transaction a batch that has rows.
/// Errors:    here: SLU-109. At start(): SLU-414 when the server cannot be reached, there is no such table or column,
/// or the key is not unique; SLU-209. Later: SLU-414 when the server refuses a row or is away for longer, SLU-209 when
/// another driver has taken over; nothing of the batch stays.
template <class T, class F>
std::shared_ptr<Sink<T>> postgres_sink(std::string connection, SqlTable table, F to_row) {
  return std::make_shared<detail::SqlSink<T, F>>(detail::postgres_database(std::move(connection)), std::move(table),
                                                 std::move(to_row));
}

}  // namespace sluice
