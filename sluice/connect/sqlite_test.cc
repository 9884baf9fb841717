#include "sluice/connect/sqlite.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/resource.h>

#include <csignal>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "sluice/runtime/kill_point.h"
#include "sluice/sluice.h"
#include "sluice/testkit/hand_runtime.h"
#include "sluice/testkit/mortal_machine.h"
#include "sluice/testkit/testing.h"
#include "sluice/testkit/thrown.h"
#include "tests/sql_contract.h"

namespace sluice::detail {
namespace {

using namespace std::chrono_literals;
using testing::code_of;
using ::testing::ElementsAre;
using testing::Ending;
using testing::error_of;
using testing::HandRuntime;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::MortalMachine;
using testing::seeds_to_run;
using testing::StreamTest;
using testing::StreamTestOptions;

/// A database in a directory of its own.
class SqliteTest : public ::testing::Test {
 protected:
  SqliteTest() : directory_("/tmp/sluice-sqlite-" + std::to_string(runtime_.random_seed())) {
    runtime_.files().make_directories(directory_);
    path_ = directory_ + "/test.db";
    EXPECT_EQ(sqlite3_open(path_.c_str(), &database_), SQLITE_OK);
    sql("pragma user_version = 1");  // the first statement makes the file
  }
  ~SqliteTest() override {
    sqlite3_close(database_);
    runtime_.files().remove_all(directory_);
  }

  /// The rows of a query, fields separated by '|'.
  Lines sql(const std::string& text) {
    Lines lines;
    const auto take = [](void* to, int count, char** values, char**) {
      std::string line;
      for (int i = 0; i < count; ++i) line += (i == 0 ? "" : "|") + std::string(values[i] ? values[i] : "NULL");
      static_cast<Lines*>(to)->push_back(line);
      return 0;
    };
    char* why = nullptr;
    EXPECT_EQ(sqlite3_exec(database_, text.c_str(), take, &lines, &why), SQLITE_OK) << why;
    sqlite3_free(why);
    return lines;
  }

  std::unique_ptr<SqlOutput> output(SqlTable table, std::size_t fields, std::uint64_t epoch = 1) {
    auto made = std::make_unique<SqlOutput>(sqlite_database(path_, {}), std::move(table), fields);
    made->start(start(epoch));
    return made;
  }
  SinkStart start(std::uint64_t epoch) { return {"app", "out", epoch, {}, runtime_}; }

  HandRuntime runtime_;
  std::string directory_;
  std::string path_;
  sqlite3* database_ = nullptr;
};

INSTANTIATE_TYPED_TEST_SUITE_P(Sqlite, SqlContract, SqliteTest);

TEST_F(SqliteTest, AllTypesOfFieldsAreStored) {
  sql("create table t (a, b, c, d, e, f, g)");
  const auto out = output({.name = "t", .columns = {"a", "b", "c", "d", "e", "f", "g"}}, 7);
  out->commit(batch(1, 1), {row(std::numeric_limits<std::int64_t>::min(), 0.1, std::string("it's \"x\""),
                                std::optional<int>(), std::optional<std::string>("y"), true, std::string())});
  EXPECT_THAT(sql("select a, b, c, d, e, f, g, typeof(b), typeof(d), typeof(g) from t"),
              ElementsAre("-9223372036854775808|0.1|it's \"x\"|NULL|y|1||real|null|text"));
}

TEST_F(SqliteTest, TextsAreStoredByteForByte) {
  sql("create table t (a)");
  const auto out = output({.name = "t", .columns = {"a"}}, 1);
  out->commit(batch(1, 1), {row(std::string("a\0b", 3)), row(std::string("\xc3\xa4")), row(std::string("\xff"))});
  EXPECT_THAT(sql("select hex(a) from t order by rowid"), ElementsAre("610062", "C3A4", "FF"));
}

TEST_F(SqliteTest, ARowThatIsRefusedLeavesNothingOfItsBatch) {
  sql("create table words (word, n check (n < 10))");
  const auto out = output(words, 2);
  const auto error =
      error_of([&] { out->commit(batch(1, 1), {row(std::string("a"), 1) + row(std::string("b"), 10)}); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), Code::database_failed);
  EXPECT_THAT(error->what(), HasSubstr("CHECK constraint failed"));
  EXPECT_THAT(error->what(), HasSubstr(path_));
  EXPECT_THAT(sql("select * from words"), IsEmpty());
  EXPECT_THAT(sql("select * from sluice_batches"), IsEmpty());
  out->commit(batch(2, 1), {row(std::string("a"), 1)});
  EXPECT_THAT(sql("select * from words"), ElementsAre("a|1"));
}

TEST_F(SqliteTest, ADatabaseThatIsHeldByAnotherFailsTheBatch) {
  sql("create table words (word, n)");
  SqlOutput out(sqlite_database(path_, {.busy_timeout = 1ms}), words, 2);
  out.start(start(1));
  sql("begin immediate");
  const auto error = error_of([&] { out.commit(batch(1, 1), {row(std::string("a"), 1)}); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), Code::database_failed);
  EXPECT_THAT(error->what(), HasSubstr("locked"));
  sql("rollback");
  out.commit(batch(1, 1), {row(std::string("a"), 1)});
  EXPECT_THAT(sql("select * from words"), ElementsAre("a|1"));
}

// A transaction that has written waits for readers when it commits.
TEST_F(SqliteTest, ADatabaseThatIsReadByAnotherFailsTheBatch) {
  sql("create table words (word, n)");
  SqlOutput out(sqlite_database(path_, {.busy_timeout = 1ms}), words, 2);
  out.start(start(1));
  sql("begin; select * from words");
  const auto error = error_of([&] { out.commit(batch(1, 1), {row(std::string("a"), 1)}); });
  ASSERT_TRUE(error);
  EXPECT_THAT(error->what(), HasSubstr("locked"));
  EXPECT_THAT(sql("select * from words"), IsEmpty());
  sql("rollback");
  out.commit(batch(1, 1), {row(std::string("a"), 1)});
  EXPECT_THAT(sql("select * from words"), ElementsAre("a|1"));
}

TEST_F(SqliteTest, ADiskThatIsFullFailsTheBatchUntilThereIsRoom) {
  sql("create table words (word, n)");
  const auto out = output(words, 2);
  out->commit(batch(1, 1), {row(std::string("a"), 1)});
  // No file may grow beyond this: what a write then fails with differs from a full disk, what the sink does does not.
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto ignore = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{64 << 10, before.rlim_max};
  const auto give = [&] { out->commit(batch(2, 2), {row(std::string(1 << 20, 'b'), 2), row(std::string("c"), 3)}); };
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto first = error_of(give);
  const auto second = error_of(give);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, ignore);
  for (const auto& error : {first, second}) {
    ASSERT_TRUE(error);
    EXPECT_EQ(error->code(), Code::database_failed);
    EXPECT_THAT(error->what(), HasSubstr(path_ + ": disk I/O error"));
  }
  EXPECT_THAT(sql("select word, n from words"), ElementsAre("a|1"));
  give();
  EXPECT_THAT(sql("select length(word), n from words order by n"), ElementsAre("1|1", "1048576|2", "1|3"));
  EXPECT_THAT(sql("pragma integrity_check"), ElementsAre("ok"));
}

TEST_F(SqliteTest, ABatchThatIsCutOffByAKillIsThereOnce) {
  sql("create table words (word, n)");
  const Lines parts{row(std::string("a"), 1), row(std::string("b"), 2)};
  output(words, 2);  // its transaction passes the places too
  const auto die_at = [&](std::string_view place) {
    SqlOutput out(sqlite_database(path_, {}), words, 2);
    out.start(start(1));
    set_kill_point_hook([place](std::string_view passed) {
      if (passed == place) std::raise(SIGKILL);
    });
    out.commit(batch(1, 1), parts);
  };
  EXPECT_EXIT(die_at("sink.before_database_commit"), ::testing::KilledBySignal(SIGKILL), "");
  EXPECT_THAT(sql("select * from words"), IsEmpty());
  EXPECT_EXIT(die_at("sink.after_database_commit"), ::testing::KilledBySignal(SIGKILL), "");
  EXPECT_THAT(sql("select * from words order by word"), ElementsAre("a|1", "b|2"));
  output(words, 2, 2)->commit(batch(1, 1), parts);
  EXPECT_THAT(sql("select * from words order by word"), ElementsAre("a|1", "b|2"));
}

TEST_F(SqliteTest, WithoutACheckpointDirectoryARunBeginsAnew) {
  sql("create table words (word, n)");
  output(words, 2, 0)->commit(batch(1, 1), {row(std::string("a"), 1)});
  const auto next = output(words, 2, 0);
  next->commit(batch(1, 1), {row(std::string("b"), 2)});
  next->commit(batch(1, 1), {row(std::string("b"), 2)});
  EXPECT_THAT(sql("select * from words order by word"), ElementsAre("a|1", "b|2"));
}

TEST_F(SqliteTest, OutputsOfOneDatabaseDoNotMix) {
  sql("create table words (word, n)");
  const auto first = output(words, 2, 5);
  SqlOutput second(sqlite_database(path_, {}), words, 2);
  second.start({"app", "other", 1, {}, runtime_});
  first->commit(batch(1, 1), {row(std::string("a"), 1)});
  second.commit(batch(1, 1), {row(std::string("b"), 1)});
  EXPECT_THAT(sql("select word from words order by word"), ElementsAre("a", "b"));
}

TEST_F(SqliteTest, WhatDoesNotFitIsToldAtTheStart) {
  const auto message = [&](const std::string& path, SqlTable table) {
    const auto error = error_of([&] { SqlOutput(sqlite_database(path, {}), std::move(table), 2).start(start(1)); });
    EXPECT_TRUE(error && error->code() == Code::database_failed);
    return error ? std::string(error->what()) : std::string();
  };
  EXPECT_THAT(message(directory_ + "/none.db", words), HasSubstr("/none.db: unable to open"));
  EXPECT_FALSE(runtime_.files().stat(directory_ + "/none.db"));
  EXPECT_THAT(message(path_, words), HasSubstr("there is no table \"words\""));
  sql("create table words (word, count)");
  EXPECT_THAT(message(path_, words), HasSubstr("table \"words\" has no column \"n\"; it has \"word\", \"count\""));
  SqlTable by_key{.name = "words", .columns = {"word", "count"}, .key = {"word"}};
  EXPECT_THAT(message(path_, by_key), HasSubstr("ON CONFLICT"));
  EXPECT_THAT(sql("select name from sqlite_master"), ElementsAre("words"));  // nothing was made
  EXPECT_EQ(code_of([&] { SqlOutput(sqlite_database(path_, {}), words, 3); }), Code::bad_argument);
  by_key.key = {"other"};
  EXPECT_EQ(code_of([&] { SqlOutput(sqlite_database(path_, {}), by_key, 2); }), Code::bad_argument);
}

// ---- Connections that are lost

/// SQLite over a network that fails: any call may lose the connection, before it takes effect or after.
class Losing : public SqlDatabase {
 protected:
  void lose() {
    if (!loses || !random_.chance(0.1)) return;
    ++lost;
    throw SqlConnectionLost("the network is down");
  }
  template <class F>
  auto call(const F& f) {
    lose();
    if constexpr (std::is_void_v<decltype(f())>) {
      f();
      lose();
    } else {
      const auto result = f();
      lose();
      return result;
    }
  }

 public:
  Losing(SqlDatabase& base, Random& random) : base_(base), random_(random) {}
  std::string name() const override { return base_.name(); }
  void connect() override {
    lose();
    base_.connect();
  }
  void disconnect() noexcept override { base_.disconnect(); }
  bool connected() const override { return base_.connected(); }
  void begin() override {
    call([&] { base_.begin(); });
  }
  void commit() override {
    call([&] { base_.commit(); });
  }
  void rollback() noexcept override { base_.rollback(); }
  std::uint64_t change(const std::string& text, const std::vector<SqlField>& parameters) override {
    return call([&] { return base_.change(text, parameters); });
  }
  std::optional<std::int64_t> ask(const std::string& text, const std::vector<SqlField>& parameters) override {
    return call([&] { return base_.ask(text, parameters); });
  }
  std::vector<std::string> columns(const std::string& table) override { return base_.columns(table); }
  void check_insert(const SqlTable& table) override { base_.check_insert(table); }
  void insert(const SqlTable& table, SqlRows& rows) override {
    call([&] { base_.insert(table, rows); });
  }

  bool loses = false;
  std::size_t lost = 0;

 protected:
  SqlDatabase& base_;

 private:
  Random& random_;
};

/// The same, with a server that goes on when the machine of its client is killed: what that one had begun is undone.
class Remote : public Losing {
 public:
  using Losing::Losing;
  void connect() override {
    base_.rollback();
    connected_ = true;
  }
  void disconnect() noexcept override {
    base_.rollback();
    connected_ = false;
  }
  bool connected() const override { return connected_; }

 private:
  bool connected_ = false;
};

TEST_F(SqliteTest, WhenTheConnectionIsLostTheBatchIsThereOnce) {
  sql("create table words (word, n)");
  std::size_t lost = 0;
  std::size_t failed = 0;
  Random random(7);
  const std::unique_ptr<SqlDatabase> base = sqlite_database(path_, {});
  auto database = std::make_unique<Losing>(*base, random);
  Losing& losing = *database;
  // The pauses are of virtual time.
  testing::Simulation sim(1);
  SqlOutput out(std::move(database), words, 2);
  sim.run([&] {
    out.start({"app", "out", 1, {}, sim});
    losing.loses = true;
    for (int second = 1; second <= 100; ++second) {
      const auto give = [&] {
        out.commit(batch(second, second), {row(std::to_string(second), 1), row(std::to_string(second), 2)});
      };
      // As a driver does, which does not know either.
      while (const auto error = error_of(give)) {
        ASSERT_EQ(error->code(), Code::database_failed);
        ASSERT_THAT(error->what(), HasSubstr("the network is down"));
        ++failed;
      }
    }
    lost = losing.lost;
  });
  EXPECT_GT(lost, 100u);
  EXPECT_GT(failed, 0u);
  EXPECT_THAT(sql("select count(*), count(distinct word), sum(n) from words"), ElementsAre("200|100|300"));
}

// ---- In a stream

TEST_F(SqliteTest, ADatabaseThatIsHeldForAWhileIsTriedAgain) {
  using Word = std::pair<std::string, int>;
  sql("create table words (word, n)");
  const auto live = [&](unsigned tries, const std::string& app_directory) {
    testing::Simulation sim(1);  // the pauses between tries are of virtual time
    sim.run([&] {
      StreamTestOptions options;
      options.runtime = &sim;
      options.checkpoint = app_directory;
      options.output_tries = tries;
      StreamTest t(options);
      t.stream<Word>({{{"a", 1}, {"b", 2}}})
          .save_to(sqlite_sink<Word>(
              path_, words, [](const Word& word) { return std::tuple(std::string_view(word.first), word.second); },
              {.busy_timeout = 1ms}));
      t.start();
      sql("begin immediate");
      // The batch is due after 1 s, and tried for the second time 100 ms later.
      const auto other = sim.spawn("other", [&] {
        sim.wait_for(1050ms);
        sql("rollback");
      });
      const auto error = error_of([&] { t.run(1); });
      other->join();
      ASSERT_EQ(error.has_value(), tries == 1);
      if (error.has_value()) {
        EXPECT_THAT(error->what(), HasSubstr("locked"));
      }
    });
  };
  live(1, "/once");
  EXPECT_THAT(sql("select * from words"), IsEmpty());
  sql("delete from sluice_outputs");
  live(2, "/twice");
  EXPECT_THAT(sql("select * from words order by word"), ElementsAre("a|1", "b|2"));
}

TEST_F(SqliteTest, OfAStreamThatIsKilledEachBatchIsThereOnce) {
  sql("create table words (word, n)");
  sql("create table last (word text primary key, n)");
  StreamTestOptions options;
  options.runtime = &runtime_;
  options.checkpoint = directory_ + "/ckpt";
  options.failed_output = FailedOutput::go_on;
  options.names_needed = true;
  using Word = std::pair<std::string, int>;
  const std::vector<std::vector<Word>> batches{{{"a", 1}, {"b", 1}}, {{"a", 2}}, {}, {{"c", 4}, {"a", 4}}, {{"b", 5}}};
  const auto live = [&](std::size_t count, const std::string& sink_options) {
    StreamTest t(options);
    const auto in = t.stream(batches).name("in");
    const auto to_row = [](const Word& word) { return std::tuple(std::string_view(word.first), word.second); };
    in.save_to(sqlite_sink<Word>(path_, words, to_row, {.busy_timeout = 1ms})).name("words");
    in.save_to(sqlite_sink<Word>(path_, {.name = "last", .columns = {"word", "n"}, .key = {"word"}}, to_row,
                                 {.busy_timeout = 1ms}))
        .name("last");
    t.start();
    if (!sink_options.empty()) sql(sink_options);
    t.run(count);
    if (!sink_options.empty()) sql("rollback");
  };
  live(1, {});
  live(2, "begin immediate");  // held by another: the second batch is owed
  EXPECT_THAT(sql("select n from words"), ElementsAre("1", "1"));
  live(4, {});
  live(5, {});
  EXPECT_THAT(sql("select n, word from words order by n, word"), ElementsAre("1|a", "1|b", "2|a", "4|a", "4|c", "5|b"));
  EXPECT_THAT(sql("select word, n from last where word <> 'a' order by word"), ElementsAre("b|5", "c|4"));
  EXPECT_THAT(sql("select count(*) from sluice_batches"), ElementsAre("2"));  // one an output
}

// ---- In a stream that is killed, in the simulation

constexpr int files_in_all = 10;
int lines_of(int file) { return file % 4 * 3; }

/// Until there has been a batch of each input file, and two more.
void live(testing::Simulation& sim, SqlDatabase& server, std::uint64_t seed, Random& random) {
  FileSystem& files = sim.files();
  files.make_directories("/in");
  Context ctx{{.app = "rows", .master = "local[2]", .partitions = 2, .spill_directory = "/spill", .runtime = &sim}};
  StreamingContext ssc(ctx, {.batch = 100ms,
                             .checkpoint = "/ckpt",
                             .checkpoint_interval = 100ms * static_cast<int>(1 + seed % 5),
                             .failed_output = FailedOutput::go_on});
  auto database = std::make_unique<Remote>(server, random);
  Remote& remote = *database;
  const auto to_row = [](std::string_view line) { return std::tuple(line, 1); };
  using Lines = SqlSink<std::string_view, std::remove_const_t<decltype(to_row)>>;
  ssc.text_file_stream("/in", {.existing_files = true})
      .save_to(std::make_shared<Lines>(std::move(database), words, to_row))
      .name("lines");
  ssc.start();  // which tries once
  remote.loses = seed % 3 == 0;
  for (int file = 0; file < files_in_all; ++file) {
    std::string text;
    for (int line = 0; line < lines_of(file); ++line) {
      text += std::to_string(file) + " " + std::to_string(line) + "\n";
    }
    const std::string path = "/in/" + std::to_string(100 + file);
    if (!files.stat(path).has_value()) files.publish(path, text);
    files.sync_directory("/in");
    if (random.chance(0.7)) {
      ASSERT_FALSE(ssc.await_termination(std::chrono::milliseconds(random.below(200))));
    }
  }
  ASSERT_FALSE(ssc.await_termination(5s));  // what is owed, too
  ssc.stop({.graceful = true});
  ssc.await_termination();
}

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::uint64_t seeds = 10;
#else
constexpr std::uint64_t seeds = 1000;
#endif

void survive_all(Ending ending) {
  std::uint64_t kills = 0;
  const auto [first, end] = seeds_to_run(seeds);
  for (std::uint64_t seed = first; seed < end; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const std::unique_ptr<SqlDatabase> server = sqlite_database(":memory:", {});
    server->connect();
    server->change("create table words (word, n)", {});
    MortalMachine machine(seed);
    Random random(seed * 77 + 1);
    bool done = false;
    for (std::uint64_t left = 1 + random.below(6); !done; left -= left > 0) {
      const std::uint64_t passes = 1 + random.below(1 << (1 + random.below(5)));
      if (left > 0 && ending == Ending::at_a_kill_point) {
        machine.kill_at_point(
            passes, [](std::string_view place) { return place.starts_with("sink.") || place.starts_with("driver."); });
      } else if (left > 0) {
        machine.sim.crash_after(1 + random.below(1 << (5 + random.below(9))));
      }
      done = machine.run([&] { live(machine.sim, *server, seed, random); }) == MortalMachine::End::done;
      kills += !done;
      if (!done && random.chance(0.7)) machine.sim.crash_disk();
      if (::testing::Test::HasFailure()) return;
    }
    int expected = 0;
    for (int file = 0; file < files_in_all; ++file) expected += lines_of(file);
    ASSERT_EQ(server->ask("select count(*) from words", {}), expected);
    ASSERT_EQ(server->ask("select count(distinct word) from words", {}), expected);
    ASSERT_LE(server->ask("select count(*) from sluice_batches", {}), 2);
  }
  EXPECT_GT(kills, end - first);
}

TEST(RowsOfAStream, AreThereOnceWhenKilledAtAnyStep) { survive_all(Ending::at_any_step); }
TEST(RowsOfAStream, AreThereOnceWhenKilledAtAnyKillPoint) { survive_all(Ending::at_a_kill_point); }

}  // namespace
}  // namespace sluice::detail
