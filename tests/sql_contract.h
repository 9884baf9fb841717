// What rows in a database must be like, whichever it is: tests for the fixture of each.
//
// The fixture, made anew for each test, has
//     Lines sql(const std::string& text);                                    // fields of a row separated by '|'
//     std::unique_ptr<SqlOutput> output(SqlTable table, std::size_t fields, std::uint64_t epoch = 1);
//                                                                            // started, of output "out"
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "sluice/connect/sql_sink.h"
#include "sluice/testkit/thrown.h"

namespace sluice::detail {

using Lines = std::vector<std::string>;

inline const SqlTable words{.name = "words", .columns = {"word", "n"}};
inline const SqlTable words_by_key{.name = "words", .columns = {"word", "n"}, .key = {"word"}};

inline SinkBatch batch(int second, int settled) {
  return {.app = "app",
          .output = "out",
          .batch = Time(std::chrono::seconds(second)),
          .settled = Time(std::chrono::seconds(settled)),
          .epoch = 1};
}

/// As the writers of a sink encode it.
template <class... Fields>
std::string row(const Fields&... fields) {
  Encoder out;
  (encode_sql_value(fields, out), ...);
  return out.take();
}

template <class Fixture>
class SqlContract : public Fixture {};
TYPED_TEST_SUITE_P(SqlContract);

TYPED_TEST_P(SqlContract, NamesMayHoldAnything) {
  this->sql("create table \"a \"\" Table\" (\"Select\" text primary key, \"a b\" int)");
  for (const bool by_key : {false, true}) {
    SqlTable table{.name = "a \" Table", .columns = {"Select", "a b"}};
    if (by_key) table.key = {"Select"};
    const auto out = this->output(table, 2);
    out->commit(batch(by_key ? 2 : 1, 1), {row(std::string("k"), by_key ? 2 : 1)});
  }
  EXPECT_THAT(this->sql("select * from \"a \"\" Table\""), ::testing::ElementsAre("k|2"));
}

TYPED_TEST_P(SqlContract, ABatchThatIsGivenAgainIsThereOnce) {
  this->sql("create table words (word text, n int)");
  const auto out = this->output(words, 2);
  const Lines parts{row(std::string("a"), 1), "", row(std::string("b"), 2)};
  out->commit(batch(1, 1), parts);
  out->commit(batch(1, 1), parts);
  this->output(words, 2, 2)->commit(batch(1, 1), parts);
  EXPECT_THAT(this->sql("select * from words order by word"), ::testing::ElementsAre("a|1", "b|2"));
}

TYPED_TEST_P(SqlContract, WithAKeyTheLastRowCounts) {
  this->sql("create table words (word text primary key, n int)");
  const auto out = this->output(words_by_key, 2);
  out->commit(batch(1, 1), {row(std::string("a"), 1) + row(std::string("b"), 1), row(std::string("a"), 2)});
  out->commit(batch(2, 2), {row(std::string("b"), 3)});
  EXPECT_THAT(this->sql("select * from words order by word"), ::testing::ElementsAre("a|2", "b|3"));
}

TYPED_TEST_P(SqlContract, AKeyOfAllColumnsKeepsWhatIsThere) {
  this->sql("create table alone (word text primary key)");
  const auto out = this->output({.name = "alone", .columns = {"word"}, .key = {"word"}}, 1, 2);
  out->commit(batch(3, 3), {row(std::string("a")) + row(std::string("a"))});
  out->commit(batch(4, 4), {row(std::string("a"))});
  EXPECT_THAT(this->sql("select * from alone"), ::testing::ElementsAre("a"));
}

TYPED_TEST_P(SqlContract, RowsOfSettledBatchesGo) {
  this->sql("create table words (word text, n int)");
  const auto out = this->output(words, 2);
  const std::string query = "select batch / 1000000000, epoch from sluice_batches order by batch";
  out->commit(batch(1, 1), {row(std::string("a"), 1)});
  out->commit(batch(3, 2), {row(std::string("a"), 1)});  // the second is owed
  out->commit(batch(4, 2), {row(std::string("a"), 1)});
  EXPECT_THAT(this->sql(query), ::testing::ElementsAre("3|1", "4|1"));
  out->commit(batch(2, 2), {row(std::string("a"), 1)});
  EXPECT_THAT(this->sql(query), ::testing::ElementsAre("2|1", "3|1", "4|1"));
  out->commit(batch(5, 5), {row(std::string("a"), 1)});
  EXPECT_THAT(this->sql(query), ::testing::ElementsAre("5|1"));
  out->commit(batch(6, 6), {});  // empty: nothing is asked of the database
  EXPECT_THAT(this->sql(query), ::testing::ElementsAre("5|1"));
}

TYPED_TEST_P(SqlContract, ADriverThatHasBeenReplacedIsFenced) {
  this->sql("create table words (word text, n int)");
  const auto old = this->output(words, 2, 1);
  const auto replacing = this->output(words, 2, 2);
  EXPECT_EQ(testing::code_of([&] { old->commit(batch(1, 1), {row(std::string("a"), 1)}); }), Code::fenced);
  EXPECT_EQ(testing::code_of([&] { this->output(words, 2, 1); }), Code::fenced);
  replacing->commit(batch(1, 1), {row(std::string("b"), 1)});
  EXPECT_THAT(this->sql("select * from words"), ::testing::ElementsAre("b|1"));
  // Without a checkpoint directory the newest is the one that counts.
  const auto without = this->output(words, 2, 0);
  EXPECT_EQ(testing::code_of([&] { replacing->commit(batch(2, 2), {row(std::string("a"), 1)}); }), Code::fenced);
  without->commit(batch(3, 3), {row(std::string("c"), 1)});
  EXPECT_THAT(this->sql("select word from words order by word"), ::testing::ElementsAre("b", "c"));
}

REGISTER_TYPED_TEST_SUITE_P(SqlContract, NamesMayHoldAnything, ABatchThatIsGivenAgainIsThereOnce,
                            WithAKeyTheLastRowCounts, AKeyOfAllColumnsKeepsWhatIsThere, RowsOfSettledBatchesGo,
                            ADriverThatHasBeenReplacedIsFenced);

}  // namespace sluice::detail
