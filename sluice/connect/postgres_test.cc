// own main
// Against a real server, which this program starts; all of its tests are skipped where none is installed.
#include "sluice/connect/postgres.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <csignal>
#include <cstdlib>
#include <limits>
#include <memory>
#include <optional>
#include <pqxx/pqxx>
#include <source_location>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "sluice/runtime/kill_point.h"
#include "sluice/testkit/hand_runtime.h"
#include "sluice/testkit/testing.h"
#include "sluice/testkit/thrown.h"
#include "tests/sql_contract.h"

/// Called by the address sanitizer. Version 6.4 of the library loses the result of a statement, about 2 kB, whose
/// connection is lost.
extern "C" const char* __lsan_default_suppressions() { return "leak:libpqxx"; }

namespace sluice::detail {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using testing::error_of;
using testing::HandRuntime;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::StreamTest;
using testing::StreamTestOptions;

/// The server of this program. Empty: none is installed.
std::string server_directory;

/// The script's status, and this program's, where none is; ctest then says "Skipped".
constexpr int not_installed = 77;

/// The script's exit status.
int server(const std::string& command, const std::string& directory) {
  const std::string here = std::source_location::current().file_name();
  const std::string root = here.substr(0, here.rfind("/sluice/connect/"));
  const std::string call = "bash '" + root + "/tests/servers/postgres.sh' " + command + " '" + directory + "'";
  // tidy: allow banned: because the server is a program of others
  const int status = std::system(call.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string connection(const std::string& database = "postgres") {
  return "host=" + server_directory + " user=postgres dbname=" + database;
}

class PostgresTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (server_directory.empty()) GTEST_SKIP() << "no PostgreSQL server is installed";
    sql("drop schema if exists public cascade");
    sql("create schema public");
  }

  /// The rows of a query, fields separated by '|'.
  Lines sql(const std::string& text) {
    pqxx::connection made(connection());
    pqxx::nontransaction session(made);
    session.exec("set client_min_messages = warning");
    Lines lines;
    for (const pqxx::row& row : session.exec(text)) {
      std::string line;
      for (const pqxx::field& field : row)
        line += (line.empty() ? "" : "|") + (field.is_null() ? "NULL" : std::string(field.c_str()));
      lines.push_back(line);
    }
    return lines;
  }

  std::unique_ptr<SqlOutput> output(SqlTable table, std::size_t fields, std::uint64_t epoch = 1) {
    auto made = std::make_unique<SqlOutput>(postgres_database(connection()), std::move(table), fields);
    made->start({"app", "out", epoch, {}, system_runtime()});
    return made;
  }
};

INSTANTIATE_TYPED_TEST_SUITE_P(Postgres, SqlContract, PostgresTest);

TEST_F(PostgresTest, AllTypesOfFieldsAreStored) {
  sql("create table t (a bigint, b double precision, c text, d int, e varchar(9), f boolean, g text)");
  const SqlTable table{.name = "public.t", .columns = {"a", "b", "c", "d", "e", "f", "g"}};
  const auto out = output(table, 7);
  out->commit(batch(1, 1), {row(std::numeric_limits<std::int64_t>::min(), 0.1, std::string("it's \"x\"\t\\N\n\\."),
                                std::optional<int>(), std::optional<std::string>("\xc3\xa4"), true, std::string())});
  EXPECT_THAT(sql("select a, b, c, d, e, f, g = '' from t"),
              ElementsAre("-9223372036854775808|0.1|it's \"x\"\t\\N\n\\.|NULL|\xc3\xa4|t|t"));
}

TEST_F(PostgresTest, NumbersThatAreNoneAreStored) {
  sql("create table t (a double precision)");
  const auto out = output({.name = "t", .columns = {"a"}}, 1);
  const double infinity = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  out->commit(batch(1, 1), {row(infinity) + row(-infinity) + row(nan) + row(-nan)});
  EXPECT_THAT(sql("select a from t order by a"), ElementsAre("-Infinity", "Infinity", "NaN", "NaN"));
}

TEST_F(PostgresTest, TextsThatAreNoneOfUtf8AreRefused) {
  sql("create table t (a text)");
  const auto out = output({.name = "t", .columns = {"a"}}, 1);
  for (const std::string& text : {std::string("a\0b", 3), std::string("\xff")}) {
    const auto error = error_of([&] { out->commit(batch(1, 1), {row(std::string("good")) + row(text)}); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->code(), Code::database_failed);
    EXPECT_THAT(error->what(), HasSubstr("invalid byte sequence for encoding \"UTF8\""));
    EXPECT_THAT(sql("select * from t"), IsEmpty());
  }
  out->commit(batch(1, 1), {row(std::string("\xe2\x82\xac\\\r"))});
  EXPECT_THAT(sql("select a from t"), ElementsAre("\xe2\x82\xac\\\r"));
}

TEST_F(PostgresTest, TextsComeInTheEncodingOfTheDatabase) {
  sql("create database latin encoding 'LATIN1' locale 'C' template template0");
  {
    pqxx::connection made(connection("latin"));
    pqxx::nontransaction(made).exec("create table t (a text)");
    SqlOutput out(postgres_database(connection("latin")), {.name = "t", .columns = {"a"}}, 1);
    out.start({"app", "out", 1, {}, system_runtime()});
    out.commit(batch(1, 1), {row(std::string("\xc3\xa4"))});
    EXPECT_EQ(pqxx::nontransaction(made).exec("select octet_length(a) from t")[0][0].as<int>(), 1);
  }
  sql("drop database latin with (force)");
}

TEST_F(PostgresTest, WhoMayNotCreateTablesUsesThoseThatWereMade) {
  sql("create table words (word text, n int)");
  sql("create role writer login");
  sql("grant usage on schema public to writer");
  sql("grant insert on words to writer");
  const auto begin = [&] {
    SqlOutput out(postgres_database("host=" + server_directory + " user=writer dbname=postgres"), words, 2);
    out.start({"app", "out", 1, {}, system_runtime()});
    out.commit(batch(1, 1), {row(std::string("a"), 1)});
  };
  const auto error = error_of(begin);
  ASSERT_TRUE(error);
  EXPECT_THAT(error->what(), HasSubstr("permission denied for schema public"));
  output(words, 2, 1);  // makes them
  sql("grant select, insert, update, delete on sluice_outputs, sluice_batches to writer");
  begin();
  EXPECT_THAT(sql("select * from words"), ElementsAre("a|1"));
  sql("drop owned by writer");
  sql("drop role writer");
}

TEST_F(PostgresTest, ARowThatIsRefusedLeavesNothingOfItsBatch) {
  sql("create table words (word text primary key, n int check (n < 10))");
  for (const SqlTable& table : {words, words_by_key}) {
    const auto out = output(table, 2);
    for (int times = 0; times < 2; ++times) {
      const auto error =
          error_of([&] { out->commit(batch(1, 1), {row(std::string("a"), 1) + row(std::string("b"), 10)}); });
      ASSERT_TRUE(error);
      EXPECT_EQ(error->code(), Code::database_failed);
      EXPECT_THAT(error->what(), HasSubstr("violates check constraint"));
      EXPECT_THAT(sql("select * from words"), IsEmpty());
      EXPECT_THAT(sql("select * from sluice_batches"), IsEmpty());
    }
    out->commit(batch(2, 1), {row(std::string("a"), 1)});
    EXPECT_THAT(sql("select * from words"), ElementsAre("a|1"));
    sql("delete from words");
    sql("delete from sluice_batches");
  }
}

TEST_F(PostgresTest, WhatDoesNotFitIsToldAtTheStart) {
  const auto message = [&](const std::string& to, SqlTable table) {
    const auto error = error_of(
        [&] { SqlOutput(postgres_database(to), std::move(table), 2).start({"app", "out", 1, {}, system_runtime()}); });
    EXPECT_TRUE(error && error->code() == Code::database_failed);
    return error ? std::string(error->what()) : std::string();
  };
  EXPECT_THAT(message(connection("none") + " password=secret", words), HasSubstr("\"none\" does not exist"));
  EXPECT_THAT(message(connection("none") + " password=secret", words), ::testing::Not(HasSubstr("secret")));
  EXPECT_THAT(message("host=/nowhere", words), HasSubstr("/nowhere"));
  EXPECT_THAT(message(connection(), words), HasSubstr("there is no table \"words\""));
  sql("create table words (word text, count int)");
  EXPECT_THAT(message(connection(), words),
              HasSubstr("table \"words\" has no column \"n\"; it has \"word\", \"count\""));
  EXPECT_THAT(message(connection(), {.name = "words", .columns = {"word", "count"}, .key = {"word"}}),
              HasSubstr("ON CONFLICT"));
  EXPECT_THAT(sql("select relname from pg_class where relname like 'sluice%'"), IsEmpty());
}

// The server ends the sink's connection in one statement after the other, also within COPY and within the commit.
TEST_F(PostgresTest, WhenTheConnectionIsEndedTheBatchIsThereOnce) {
  sql("create table words (word text, n int)");
  sql("create table last (word text primary key, n int)");
  const auto plain = output(words, 2);
  SqlOutput by_key(postgres_database(connection()), {.name = "last", .columns = {"word", "n"}, .key = {"word"}}, 2);
  by_key.start({"app", "last", 1, {}, system_runtime()});
  // Numbers of a sequence are used up by transactions that fail, too: the step is passed once.
  sql("create sequence steps");
  sql("create table fatal (step int)");
  sql("create function step() returns trigger language plpgsql as $$ begin"
      " if nextval('steps') = (select step from fatal) then perform pg_terminate_backend(pg_backend_pid()); end if;"
      " return new; end $$");
  for (const char* const table : {"words", "last", "sluice_batches"}) {
    sql("create trigger step before insert on " + std::string(table) + " for each row execute function step()");
  }
  sql("create trigger step before update on sluice_outputs for each row execute function step()");
  sql("create constraint trigger at_commit after insert on sluice_batches deferrable initially deferred"
      " for each row execute function step()");
  const int steps = 10;  // of two batches: each the epoch, two rows, the batch's row, the commit
  for (int step = 1; step <= steps; ++step) {
    sql("delete from fatal");
    sql("insert into fatal values (" + std::to_string(step) + ")");
    sql("alter sequence steps restart");
    const Lines parts{row(std::string("w"), step), row(std::to_string(step), step)};
    plain->commit(batch(step, step), parts);
    by_key.commit(batch(step, step), parts);
    // More than without an end of the connection.
    EXPECT_THAT(sql("select last_value > " + std::to_string(steps) + " from steps"), ElementsAre("t")) << step;
  }
  EXPECT_THAT(sql("select count(*), count(distinct word), sum(n) from words"), ElementsAre("20|11|110"));
  EXPECT_THAT(sql("select count(*), sum(n) from last"), ElementsAre("11|65"));
}

TEST_F(PostgresTest, ABatchThatIsCutOffByAKillIsThereOnce) {
  sql("create table words (word text primary key, n int)");
  for (const SqlTable& table : {words, words_by_key}) {
    const Lines parts{row(std::string("a"), 1), row(std::string("b"), 2)};
    const auto die_at = [&](std::string_view place) {
      const auto out = output(table, 2);
      set_kill_point_hook([place](std::string_view passed) {
        if (passed == place) std::raise(SIGKILL);
      });
      out->commit(batch(1, 1), parts);
    };
    EXPECT_EXIT(die_at("sink.before_database_commit"), ::testing::KilledBySignal(SIGKILL), "");
    EXPECT_THAT(sql("select * from words"), IsEmpty());
    EXPECT_EXIT(die_at("sink.after_database_commit"), ::testing::KilledBySignal(SIGKILL), "");
    EXPECT_THAT(sql("select * from words order by word"), ElementsAre("a|1", "b|2"));
    output(table, 2)->commit(batch(1, 1), parts);
    EXPECT_THAT(sql("select * from words order by word"), ElementsAre("a|1", "b|2"));
    sql("delete from words");
    sql("delete from sluice_batches");
  }
}

// As the database looks when a transaction took effect and its connection was lost before the sink was told.
TEST_F(PostgresTest, WhenTheOutcomeOfACommitIsNotKnownTheBatchsRowIsAsked) {
  sql("create table words (word text, n int)");
  const auto out = output(words, 2);
  out->commit(batch(1, 1), {row(std::string("a"), 1)});
  // What the lost transaction would have left, had it taken effect.
  sql("insert into words values ('b', 2)");
  sql("insert into sluice_batches values ('app', 'out', 2000000000, 1)");
  EXPECT_THAT(sql("select count(pg_terminate_backend(pid)) from pg_stat_activity where pid <> pg_backend_pid() "
                  "and backend_type = 'client backend'"),
              ElementsAre("1"));
  out->commit(batch(2, 2), {row(std::string("b"), 2)});
  EXPECT_THAT(sql("select word, n from words order by word"), ElementsAre("a|1", "b|2"));
}

TEST_F(PostgresTest, AServerThatIsStartedAgainIsFoundAgain) {
  sql("create table words (word text, n int)");
  const auto out = output(words, 2);
  out->commit(batch(1, 1), {row(std::string("a"), 1)});
  ASSERT_EQ(server("restart", server_directory), 0);
  out->commit(batch(2, 2), {row(std::string("b"), 2)});
  EXPECT_THAT(sql("select word from words order by word"), ElementsAre("a", "b"));
}

TEST_F(PostgresTest, CommitsAreDurableWhateverTheServersDefault) {
  sql("create table words (word text, n int, s text default current_setting('synchronous_commit'))");
  sql("alter database postgres set synchronous_commit = off");
  output(words, 2)->commit(batch(1, 1), {row(std::string("a"), 1)});
  sql("alter database postgres reset synchronous_commit");
  EXPECT_THAT(sql("select s from words"), ElementsAre("on"));
}

TEST_F(PostgresTest, OfAStreamThatIsKilledEachBatchIsThereOnce) {
  sql("create table words (word text, n int check (n <> 2))");
  HandRuntime runtime;
  StreamTestOptions options;
  options.runtime = &runtime;
  options.checkpoint = "/tmp/sluice-postgres-ckpt-" + std::to_string(runtime.random_seed());
  options.failed_output = FailedOutput::go_on;
  options.names_needed = true;
  using Word = std::pair<std::string, int>;
  const std::vector<std::vector<Word>> batches{{{"a", 1}, {"b", 1}}, {{"a", 2}}, {},
                                               {{"c", 4}, {"a", 4}}, {{"b", 5}}, {{"d", 6}}};
  const auto live = [&](std::size_t count) {
    StreamTest t(options);
    t.stream(batches)
        .name("in")
        .save_to(
            postgres_sink<Word>(connection(), words,
                                [](const Word& word) { return std::tuple(std::string_view(word.first), word.second); }))
        .name("words");
    t.run(count);
  };
  live(1);
  live(4);  // the second batch is owed
  EXPECT_THAT(sql("select n, word from words order by n, word"), ElementsAre("1|a", "1|b", "4|a", "4|c"));
  sql("alter table words drop constraint words_n_check");
  live(6);
  runtime.files().remove_all(options.checkpoint);
  EXPECT_THAT(sql("select n, word from words order by n, word"),
              ElementsAre("1|a", "1|b", "2|a", "4|a", "4|c", "5|b", "6|d"));
  EXPECT_THAT(sql("select count(*) from sluice_batches"), ElementsAre("1"));
}

}  // namespace
}  // namespace sluice::detail

int main(int argc, char** argv) {
  using namespace sluice::detail;
  ::testing::InitGoogleMock(&argc, argv);
  const std::string directory = "/tmp/sluice-postgres-" + std::to_string(sluice::system_runtime().random_seed());
  const int status = server("start", directory);
  if (status != 0 && status != not_installed) return 1;
  if (status == 0) server_directory = directory;
  const int result = RUN_ALL_TESTS();
  if (status == 0) server("stop", directory);
  sluice::system_runtime().files().remove_all(directory);
  return result == 0 ? status : result;
}
