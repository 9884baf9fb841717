// own main
// State in RocksDB gives what state in memory gives.
#include <gmock/gmock.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/runtime/kill_point.h"
#include "sluice/runtime/random.h"
#include "sluice/stream/inspect.h"
#include "sluice/stream/state_backend.h"
#include "tests/scenario/lives.h"
#include "tests/scenario/matrix.h"

#ifdef __SANITIZE_THREAD__
// RocksDB is not built with the thread sanitizer, so that one does not see what it synchronizes. Races between threads
// that are not in RocksDB are reported as ever.
extern "C" const char* __tsan_default_suppressions();  // NOLINT(bugprone-reserved-identifier): the sanitizer's name
extern "C" const char* __tsan_default_suppressions() { return "race:librocksdb.so\n"; }
#endif

namespace sluice::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

/// In a build without RocksDB there is nothing to see but that it is refused.
class LargeState : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      HandRuntime runtime;
      const Lives lives;
      sluice::detail::open_rocksdb({runtime.files(), lives.directory + "/probe", {}, {}, 0});
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), Code::no_state_backend) << error.what();
      GTEST_SKIP() << error.what();
    }
  }
};

using Event = std::pair<std::string, int>;
using Events = std::vector<std::vector<Event>>;

/// Batches that put, change, drop and bring back keys of all lengths.
Events random_events(std::uint64_t seed, std::size_t batches, std::size_t keys) {
  Random random(seed);
  Events all(batches);
  for (auto& batch : all) {
    if (random.chance(0.1)) continue;
    for (std::uint64_t n = random.below(keys); n > 0; --n) {
      const std::uint64_t key = random.below(keys);
      batch.emplace_back(std::string(key % 23, 'k') + std::to_string(key), static_cast<int>(random.below(9)) - 2);
    }
  }
  return all;
}

/// Depends on the order of values; negative ones drop the key.
std::optional<std::int64_t> digits(std::span<const int> now, std::optional<std::int64_t> before) {
  for (const int x : now) {
    if (x < 0) {
      before.reset();
    } else {
      before = (before.value_or(0) * 10 + x) % 1'000'000'007;
    }
  }
  return before;
}

/// The same, and it changes all keys in all batches.
std::optional<std::int64_t> aging_digits(std::span<const int> now, std::optional<std::int64_t> before) {
  auto after = digits(now, before);
  if (now.empty() && after.has_value() && ++*after % 11 == 0) return std::nullopt;
  return after;
}

/// With real threads: RocksDB needs the system's files.
void on_threads(const std::function<void(StreamTest&)>& body, const StreamTestOptions& base = {}) {
  for (const std::size_t cores : {1, 2, 4}) {
    SCOPED_TRACE("local[" + std::to_string(cores) + "]");
    StreamTestOptions options = base;
    options.cores = cores;
    options.encode_tasks = options.check_views = cores != 4;
    StreamTest t(options);
    body(t);
  }
  for (const Duration checkpoint_interval : {Duration(1ms), Duration(1h)}) {
    SCOPED_TRACE("restarted, checkpoints " + to_string(checkpoint_interval) + " apart");
    StreamTestOptions options = base;
    options.checkpoint_interval = checkpoint_interval;
    run_restarted(options, body);
  }
}

TEST_F(LargeState, GivesWhatMemoryGivesInEachBatch) {
  for (const std::size_t partitions : {1, 2, 3, 5}) {
    const Events events = random_events(partitions, 25, 200);
    on_threads(
        [&](StreamTest& t) {
          auto in = t.stream<Event>(events);
          auto memory = in.update_state_by_key(digits, {.idle_keeps_state = true});
          auto large = in.update_state_by_key(digits, {.idle_keeps_state = true}).state(sluice::rocksdb);
          auto memory_all = t.output(memory);
          auto memory_changes = t.output(memory.changes());
          auto large_all = t.output(large);
          auto large_changes = t.output(large.changes());
          t.run(events.size());
          EXPECT_EQ(sorted_values(large_all.batches()), sorted_values(memory_all.batches()));
          EXPECT_EQ(sorted_values(large_changes.batches()), sorted_values(memory_changes.batches()));
        },
        {.partitions = partitions});
  }
}

TEST_F(LargeState, ThePlainFormCallsTheFunctionForAllKeys) {
  const Events events = random_events(7, 20, 60);
  on_threads([&](StreamTest& t) {
    auto in = t.stream<Event>(events);
    auto memory = t.output(in.update_state_by_key(aging_digits));
    auto large = in.update_state_by_key(aging_digits).state(sluice::rocksdb);
    auto all = t.output(large);
    auto changes = t.output(large.changes());
    t.run(events.size());
    EXPECT_EQ(sorted_values(all.batches()), sorted_values(memory.batches()));
    EXPECT_EQ(sorted_values(changes.batches()), sorted_values(memory.batches()));
  });
}

// Keys as they lie in the database: what their bytes are does not change their order in a batch.
TEST_F(LargeState, RecordsComeInTheOrderOfKeyGroupAndKey) {
  const Events events = random_events(3, 12, 150);
  std::vector<std::vector<std::pair<std::string, std::int64_t>>> first;
  on_threads(
      [&](StreamTest& t) {
        auto large =
            t.stream<Event>(events).update_state_by_key(digits, {.idle_keeps_state = true}).state(sluice::rocksdb);
        auto out = t.output(large);
        auto changes = t.output(large.changes());
        t.run(events.size());
        const auto got = values(out.batches());
        if (first.empty()) first = got;
        EXPECT_EQ(got, first);
        // What has changed comes in the order in which all of it does.
        for (std::size_t b = 0; b < got.size(); ++b) {
          auto from = got[b].begin();
          for (const auto& record : changes.batches()[b].records) {
            from = std::find(from, got[b].end(), record);
            EXPECT_NE(from, got[b].end()) << record.first;
          }
        }
      },
      {.partitions = 1});
}

struct Point {
  std::int16_t x = 0;
  std::string label;
  friend auto operator<=>(const Point&, const Point&) = default;
};
struct Seen {
  std::vector<std::string> texts;
  double last = 0;
  friend auto operator<=>(const Seen&, const Seen&) = default;
};

TEST_F(LargeState, KeysThatAreViewsOrStructsAndStatesOfAnySize) {
  const Events events = random_events(5, 10, 80);
  on_threads([&](StreamTest& t) {
    auto in = t.stream<Event>(events);
    auto points = in.map([](const Event& e) {
      return std::pair{Point{static_cast<std::int16_t>(e.second), e.first}, std::string_view(e.first)};
    });
    const auto seen = [](std::span<const std::string_view> now, std::optional<Seen> before) {
      Seen after = std::move(before).value_or(Seen{});
      for (const std::string_view text : now) after.texts.emplace_back(text);
      after.last = static_cast<double>(now.size());
      return after.texts.size() > 7 ? std::nullopt : std::optional(after);
    };
    auto memory = t.output(points.update_state_by_key(seen, {.idle_keeps_state = true}));
    auto large = t.output(points.update_state_by_key(seen, {.idle_keeps_state = true}).state(sluice::rocksdb));
    auto views = in.map([](const Event& e) { return std::pair{std::string_view(e.first), e.second}; });
    auto memory_views = t.output(views.update_state_by_key(digits, {.idle_keeps_state = true}));
    auto large_views = views.update_state_by_key(digits, {.idle_keeps_state = true}).state(sluice::rocksdb);
    auto large_all = t.output(large_views);
    auto large_changes = t.output(large_views.changes().count());
    t.run(events.size());
    EXPECT_EQ(sorted_values(large.batches()), sorted_values(memory.batches()));
    EXPECT_EQ(sorted_values(large_all.batches()), sorted_values(memory_views.batches()));
  });
}

// A chunk of views is as long as a scan is: their bytes must last as long.
TEST_F(LargeState, ManyViewsOfKeysInOneScan) {
  std::vector<Event> many;
  for (int i = 0; i < 5000; ++i) many.emplace_back("a key that is not a short one " + std::to_string(i), i % 5);
  on_threads(
      [&](StreamTest& t) {
        auto views = t.stream<Event>({many, {}}).map([](const Event& e) {
          return std::pair{std::string_view(e.first), e.second};
        });
        auto out = t.output(views.update_state_by_key(digits).state(sluice::rocksdb));
        t.run(2);
        ASSERT_EQ(out.batches()[1].records.size(), many.size());
        std::vector<std::pair<std::string, std::int64_t>> got;
        for (const auto& [key, sum] : out.batches()[1].records) got.emplace_back(key, sum);
        std::sort(got.begin(), got.end());
        std::vector<std::pair<std::string, std::int64_t>> expected(many.begin(), many.end());
        std::sort(expected.begin(), expected.end());
        EXPECT_EQ(got, expected);
      },
      {.partitions = 2});
}

TEST_F(LargeState, AnAttemptThatFailsLeavesNothingBehind) {
  const Events events = random_events(11, 20, 120);
  for (const bool idle : {true, false}) {
    SCOPED_TRACE(idle);
    const auto run = [&](bool fails) {
      StreamTest t({.partitions = 2, .cores = 2});
      auto state =
          t.stream<Event>(events).update_state_by_key(digits, {.idle_keeps_state = idle}).state(sluice::rocksdb);
      // Fails in the middle of an attempt, behind the state.
      auto failing = state.map([fails](const std::pair<std::string, std::int64_t>& record) {
        const auto* task = sluice::detail::TaskContext::current();
        const bool now = fails && task->id().attempt == 0 && record.second % 7 == 3;
        if (now) throw std::runtime_error("not yet");
        return record;
      });
      auto out = t.output(failing);
      auto changes = t.output(state.changes());
      t.run(events.size());
      return std::pair{values(out.batches()), values(changes.batches())};
    };
    EXPECT_EQ(run(true), run(false));
  }
}

TEST_F(LargeState, AJobThatAsksAgainGetsTheSameRecords) {
  const Events events = random_events(13, 12, 100);
  for (const bool idle : {true, false}) {
    StreamTest t({.partitions = 3, .cores = 2});
    auto state = t.stream<Event>(events).update_state_by_key(digits, {.idle_keeps_state = idle}).state(sluice::rocksdb);
    std::map<Time, std::vector<Records<std::pair<std::string, std::int64_t>>>> seen;
    const auto keep = [&seen](const auto& rdd, Time time) {
      for (int i = 0; i < 3; ++i) seen[time].push_back(rdd.collect());
    };
    state.foreach_rdd(keep);
    state.changes().foreach_rdd([&](const auto& rdd, Time time) { keep(rdd, time + Duration(1)); });
    t.run(events.size());
    EXPECT_EQ(seen.size(), 2 * events.size());
    for (const auto& [time, all] : seen) {
      ASSERT_EQ(all.size(), 3U);
      for (const auto& records : all) EXPECT_EQ(records.to_vector(), all[0].to_vector());
    }
  }
}

// ---- Windows with an inverse

struct Window {
  int length;
  int slide;
};
constexpr Window windows[] = {{1, 1}, {4, 1}, {6, 2}, {6, 3}, {4, 4}, {2, 5}};

WindowOptions options_of(const Window& window) { return {.length = window.length * 1s, .slide = window.slide * 1s}; }

TEST_F(LargeState, WindowsGiveWhatMemoryGivesInEachBatch) {
  const Events events = random_events(61, 22, 150);
  for (const Window& window : windows) {
    SCOPED_TRACE(std::to_string(window.length) + " by " + std::to_string(window.slide));
    on_threads(
        [&](StreamTest& t) {
          auto in = t.stream<Event>(events);
          auto memory = t.output(in.reduce_by_key_and_window(std::plus{}, std::minus{}, options_of(window)));
          auto large = t.output(
              in.reduce_by_key_and_window(std::plus{}, std::minus{}, options_of(window)).state(sluice::rocksdb));
          t.run(events.size());
          EXPECT_EQ(sorted_values(large.batches()), sorted_values(memory.batches()));
        },
        {.partitions = static_cast<std::size_t>(window.length) % 3 + 1});
  }
}

// Depends on the order in which batches enter and leave: a queue as a text.
std::string append(const std::string& all, const std::string& entering) { return all + entering; }
std::string take_away(const std::string& all, const std::string& leaving) {
  if (!all.starts_with(leaving)) throw std::runtime_error("\"" + all + "\" does not begin with \"" + leaving + "\"");
  return all.substr(leaving.size());
}

TEST_F(LargeState, WindowsOfTextsWhoseBatchesEnterAndLeaveInOrder) {
  const Events events = random_events(67, 20, 60);
  on_threads(
      [&](StreamTest& t) {
        auto in = t.stream<Event>(events).map(
            [](const Event& e) { return std::pair{Point{static_cast<std::int16_t>(e.second), e.first}, e.first}; });
        const auto outputs = [&](const Window& window) {
          const auto sums = [&] { return in.reduce_by_key_and_window(append, take_away, options_of(window)); };
          return std::pair{t.output(sums()), t.output(sums().state(sluice::rocksdb))};
        };
        const auto [memory, large] = outputs({5, 1});
        const auto [memory_3, large_3] = outputs({6, 3});
        t.run(events.size());
        EXPECT_EQ(sorted_values(large.batches()), sorted_values(memory.batches()));
        EXPECT_EQ(sorted_values(large_3.batches()), sorted_values(memory_3.batches()));
      },
      {.partitions = 2});
}

TEST_F(LargeState, AnAttemptOfAWindowThatFailsLeavesNothingBehind) {
  const Events events = random_events(71, 20, 120);
  const auto run = [&](bool fails) {
    StreamTest t({.partitions = 2, .cores = 2});
    auto sums = t.stream<Event>(events)
                    .reduce_by_key_and_window(std::plus{}, std::minus{}, {.length = 5s, .slide = 2s})
                    .state(sluice::rocksdb);
    auto out = t.output(sums.map([fails](const Event& record) {
      const auto* task = sluice::detail::TaskContext::current();
      const bool now = fails && task->id().attempt == 0 && record.second % 7 == 3;
      if (now) throw std::runtime_error("not yet");
      return record;
    }));
    t.run(events.size());
    return values(out.batches());
  };
  EXPECT_EQ(run(true), run(false));
}

/// What a program has in its batches, and where its state lies.
using Sums = std::vector<std::vector<std::pair<std::string, std::int64_t>>>;
enum class Where { plain, in_memory, in_rocksdb };

class LargeStateLives : public LargeState {
 protected:
  struct Life {
    Where where = Where::in_rocksdb;
    std::size_t partitions = 2;
    std::size_t batches = 5;
    Duration checkpoint_interval = 1ms;
    bool graceful = false;
    RocksdbOptions rocksdb{};
  };
  /// Runs batches of `events` from where the life before has stopped.
  void live(const Events& events, const Life& life, const std::function<void(StreamTest&)>& before = nullptr) {
    StreamTestOptions options = lives.options();
    options.partitions = life.partitions;
    options.checkpoint_interval = life.checkpoint_interval;
    lives.live(options, [&](StreamTest& t) {
      const auto state =
          t.stream<Event>(events).name("in").update_state_by_key(digits, {.idle_keeps_state = true}).name("digits");
      if (life.where == Where::in_memory) state.state(sluice::in_memory);
      if (life.where == Where::in_rocksdb) state.state(sluice::rocksdb(life.rocksdb));
      const auto out = t.output(state);
      if (before) before(t);
      t.run(done + life.batches);  // those of earlier lives count
      done += life.batches;
      for (auto& batch : sorted_values(out.batches())) seen.push_back(std::move(batch));
      t.stop(life.graceful);
    });
  }
  /// What the plain map has.
  static Sums expected(const Events& events) {
    std::map<std::string, std::int64_t> all;
    Sums sums;
    for (const std::vector<Event>& batch : events) {
      std::map<std::string, std::vector<int>> values;
      for (const auto& [key, value] : batch) values[key].push_back(value);
      for (const auto& [key, now] : values) {
        const auto known = all.find(key);
        const auto after = digits(now, known == all.end() ? std::nullopt : std::optional(known->second));
        after.has_value() ? void(all[key] = *after) : void(all.erase(key));
      }
      sums.emplace_back(all.begin(), all.end());
    }
    return sums;
  }
  FileSystem& files() { return lives.runtime.files(); }
  /// Paths below the directory whose last directory begins so.
  std::vector<std::string> paths_in(std::string_view directory) {
    std::vector<std::string> found;
    for (const auto& [path, bytes] : lives.listing()) {
      if (base_name(parent_path(path)).starts_with(directory)) found.push_back(path);
    }
    return found;
  }

  Lives lives;
  const std::string checkpoint = lives.options().checkpoint;
  std::size_t done = 0;
  Sums seen;
};

TEST_F(LargeStateLives, GoesOnWithAnotherNumberOfPartitionsAndInAnotherPlace) {
  const Events events = random_events(17, 30, 300);
  const std::vector<std::vector<Life>> all = {
      {{Where::in_rocksdb, 2, 10}, {Where::in_rocksdb, 5, 10}, {Where::in_rocksdb, 1, 10}},
      {{Where::plain, 2, 10}, {Where::in_rocksdb, 3, 5}, {Where::in_memory, 2, 7}, {Where::in_rocksdb, 2, 8}}};
  for (const std::vector<Life>& some : all) {
    for (const Duration interval : {Duration(1ms), Duration(1h)}) {
      for (const bool graceful : {true, false}) {
        SCOPED_TRACE(to_string(interval) + (graceful ? ", graceful" : ""));
        seen.clear();
        done = 0;
        for (Life life : some) {
          life.checkpoint_interval = interval;
          life.graceful = graceful;
          live(events, life);
        }
        EXPECT_TRUE(seen == expected(events));
        files().remove_all(lives.directory);
      }
    }
  }
}

TEST_F(LargeStateLives, WindowsGoOnWithAnotherNumberOfPartitionsAndInAnotherPlace) {
  const Events events = random_events(73, 30, 200);
  const auto plain = [&](const Window& window) {
    Sums sums;
    for (int end = window.slide; end <= static_cast<int>(events.size()); end += window.slide) {
      std::map<std::string, std::int64_t> all;
      for (int batch = std::max(0, end - window.length); batch < end; ++batch) {
        for (const auto& [key, value] : events[static_cast<std::size_t>(batch)]) all[key] += value;
      }
      sums.emplace_back(all.begin(), all.end());
    }
    return sums;
  };
  for (const Window& window : {Window{5, 1}, Window{6, 2}}) {
    for (const bool graceful : {true, false}) {
      for (const Duration interval : {Duration(1ms), Duration(1h)}) {
        SCOPED_TRACE(std::to_string(window.slide) + (graceful ? ", graceful, " : ", ") + to_string(interval));
        const Life all[] = {{Where::plain, 2, 4},
                            {Where::in_rocksdb, 3, 6},
                            {Where::in_rocksdb, 1, 4},
                            {Where::in_memory, 5, 8},
                            {Where::in_rocksdb, 2, 8}};
        Sums got;
        std::size_t batches = 0;
        for (const Life& life : all) {
          StreamTestOptions options = lives.options();
          options.partitions = life.partitions;
          options.checkpoint_interval = interval;
          lives.live(options, [&](StreamTest& t) {
            const auto sums = t.stream<Event>(events)
                                  .name("in")
                                  .reduce_by_key_and_window(std::plus{}, std::minus{}, options_of(window))
                                  .name("window");
            if (life.where == Where::in_memory) sums.state(sluice::in_memory);
            if (life.where == Where::in_rocksdb) sums.state(sluice::rocksdb);
            const auto out = t.output(sums);
            batches += life.batches;
            t.run(batches);
            for (const auto& batch : sorted_values(out.batches())) got.emplace_back(batch.begin(), batch.end());
            t.stop(graceful);
          });
        }
        EXPECT_EQ(got, plain(window));
        files().remove_all(lives.directory);
      }
    }
  }
}

TEST_F(LargeStateLives, IsNotForgottenByAProgramThatKeepsItInMemory) {
  const Events events = random_events(2, 4, 30);
  live(events, {.batches = 2});
  const std::string why = message_of([&] { live(events, {.where = Where::plain}); });
  EXPECT_THAT(why, AllOf(HasSubstr("SLU-117"), HasSubstr("digits"), HasSubstr(".state(sluice::in_memory)")));
  live(events, {.batches = 2});
  EXPECT_TRUE(seen == expected(events));
}

// L4: what batches change while a snapshot is made is not in it.
TEST_F(LargeStateLives, BatchesGoOnWhileASnapshotIsMade) {
  const Events events = random_events(23, 20, 200);
  live(events, {.batches = 3, .graceful = true});
  std::mutex mutex;
  const std::unique_ptr<Condition> changed = lives.runtime.condition();
  bool armed = false;
  bool held = false;
  bool open = false;
  std::size_t published = 0;
  set_kill_point_hook([&](std::string_view place) {
    std::unique_lock lock(mutex);
    if (!armed) return;
    if (place == "checkpoint.before_snapshot") {
      held = true;
      changed->notify_all();
      while (!open) changed->wait(lock);
    } else if (place == "checkpoint.after_manifest") {
      ++published;
      changed->notify_all();
    }
  });
  struct Unhook {
    ~Unhook() { set_kill_point_hook({}); }
  } const unhook;
  StreamTestOptions options = lives.options();
  options.checkpoint_interval = 5s;  // one in this life
  lives.live(options, [&](StreamTest& t) {
    const auto state =
        t.stream<Event>(events).name("in").update_state_by_key(digits, {.idle_keeps_state = true}).name("digits");
    state.state(sluice::rocksdb);
    const auto out = t.output(state);
    t.run(done + 1);
    {
      const std::lock_guard lock(mutex);
      armed = true;
    }
    t.run(5);
    {
      std::unique_lock lock(mutex);
      while (!held) changed->wait(lock);
    }
    t.run(3);  // over what is frozen
    {
      std::unique_lock lock(mutex);
      EXPECT_EQ(published, 0U);
      open = true;
      changed->notify_all();
      while (published == 0) changed->wait(lock);
    }
    for (auto& batch : sorted_values(out.batches())) seen.push_back(std::move(batch));
    t.stop();
  });
  done = 12;
  live(events, {.batches = 8});
  EXPECT_TRUE(seen == expected(events));
}

TEST_F(LargeStateLives, WhatACrashLeavesIsRemoved) {
  const Events events = random_events(29, 6, 50);
  live(events, {.batches = 2});
  // A working directory of the run that was killed, snapshots that it had not finished, one from before an older run.
  for (const std::string& name :
       {std::string("/work") + "/1/0", std::string("/snapshot-000000000000001-000001-0000")}) {
    files().make_directories(checkpoint + name);
    files().publish(checkpoint + name + "/000001.sst", "half of a table");
  }
  live(events, {.batches = 4, .graceful = true});
  EXPECT_TRUE(seen == expected(events));
  for (const auto& [path, bytes] : lives.listing()) EXPECT_FALSE(path.ends_with("/000001.sst")) << path;
  EXPECT_THAT(paths_in("1"), IsEmpty());
}

TEST_F(LargeStateLives, IsKeptInADirectoryOfItsOwn) {
  const Events events = random_events(31, 9, 50);
  const std::string own = lives.directory + "/own";
  bool used = false;
  for (int life = 0; life < 3; ++life) {
    live(events, {.batches = 3, .rocksdb = {.directory = own}}, [&](StreamTest& t) {
      t.start();
      used = used || !files().list(own).value_or(std::vector<FileInfo>()).empty();
    });
  }
  EXPECT_TRUE(used);
  EXPECT_FALSE(files().stat(checkpoint + "/work").has_value());
  EXPECT_TRUE(seen == expected(events));
}

TEST_F(LargeStateLives, TheCommandLooksIntoItAndChangesNothing) {
  const Events events = random_events(37, 5, 400);
  for (const std::size_t batches : {2, 3}) live(events, {.batches = batches, .graceful = true});
  const auto before = lives.listing();
  const std::string listed = sluice::detail::list_checkpoints(files(), checkpoint);
  EXPECT_THAT(listed, AllOf(HasSubstr("checkpoint of batch"), Not(HasSubstr("damaged"))));
  const std::string shown = sluice::detail::show_checkpoint(files(), checkpoint, 0);
  EXPECT_THAT(shown, AllOf(HasSubstr("operator digits: update_state_by_key\n"), HasSubstr(" keys in RocksDB, "),
                           HasSubstr("directory snapshot-")));
  const sluice::detail::Verified verified = sluice::detail::verify_checkpoints(files(), checkpoint);
  EXPECT_THAT(verified.problems, IsEmpty());
  EXPECT_GT(verified.checkpoints, 1U);
  EXPECT_EQ(lives.listing(), before);
}

TEST_F(LargeStateLives, AnOlderCheckpointIsUsedWhenTheNewestIsRemoved) {
  const Events events = random_events(41, 8, 100);
  for (const std::size_t batches : {2, 2}) live(events, {.batches = batches, .graceful = true});
  sluice::detail::remove_checkpoint(files(), checkpoint, 0);
  live(events, {.batches = 4, .graceful = true});
  EXPECT_TRUE(seen == expected(events));
  // Those of checkpoints that nobody keeps are gone.
  std::set<std::string> named;
  for (const std::string& path : sluice::detail::list_manifests(files(), checkpoint)) {
    for (const auto& snapshot : sluice::detail::read_manifest(files(), path).snapshots)
      named.insert(snapshot.directory);
  }
  EXPECT_EQ(named.size(), 2U);
  for (const auto& [path, bytes] : lives.listing()) {
    if (!base_name(path).starts_with("snapshot-")) continue;
    EXPECT_TRUE(named.contains(std::string(base_name(path)))) << path;
  }
}

TEST_F(LargeStateLives, EachDamageIsFound) {
  const Events events = random_events(43, 7, 100);
  for (const std::size_t batches : {2, 3}) live(events, {.batches = batches, .graceful = true});
  const std::string newest = sluice::detail::list_manifests(files(), checkpoint).front();
  const auto manifest = sluice::detail::read_manifest(files(), newest);
  ASSERT_EQ(manifest.snapshots.size(), 1U);
  ASSERT_GT(manifest.snapshots[0].files.size(), 2U);
  for (const auto& file : manifest.snapshots[0].files) {
    const std::string path = checkpoint + "/" + manifest.snapshots[0].directory + "/" + file.name;
    const std::string bytes = read_file(files(), path);
    for (const std::size_t at : {std::size_t{0}, bytes.size() / 2, bytes.size() - 1, bytes.size()}) {
      std::string other = bytes;
      at == bytes.size() ? void(other.pop_back()) : void(other[at] = static_cast<char>(other[at] ^ 4));
      files().publish(path, other);  // a file of its own now, so that older snapshots have theirs
      const sluice::detail::Verified found = sluice::detail::verify_checkpoints(files(), checkpoint);
      ASSERT_EQ(found.problems.size(), 1U) << path << " at " << at;
      EXPECT_THAT(found.problems[0], HasSubstr(path));
    }
    if (file.name != manifest.snapshots[0].files.back().name) files().publish(path, bytes);
  }
  // The checkpoint before has all its files.
  ::testing::internal::CaptureStderr();
  live(events, {.batches = 2, .rocksdb = {.verify = true}});
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("an older checkpoint is used"));
  EXPECT_TRUE(seen == expected(events));
}

TEST_F(LargeStateLives, ADiskThatIsFullAtACheckpointEndsTheStreamAndLosesNothing) {
  const Events small = random_events(47, 3, 50);
  live(small, {.batches = 3});
  Events events = small;
  Random random(1);
  std::vector<Event> many;
  for (int key = 0; key < 40'000; ++key) many.emplace_back(std::to_string(random.below(1ULL << 62)), 1);
  events.push_back(many);
  // No file may grow beyond this, as if the disk were full: tables of that batch do, the journal and the rest do not.
  struct Limit {
    explicit Limit(rlim_t bytes) {
      std::signal(SIGXFSZ, SIG_IGN);
      getrlimit(RLIMIT_FSIZE, &before);
      const rlimit limit{bytes, before.rlim_max};
      setrlimit(RLIMIT_FSIZE, &limit);
    }
    ~Limit() { setrlimit(RLIMIT_FSIZE, &before); }
    Limit(const Limit&) = delete;
    Limit& operator=(const Limit&) = delete;
    rlimit before{};
  };
  {
    const Life life{.batches = 1, .checkpoint_interval = 1h, .graceful = true};
    const Limit limit(256 << 10);
    EXPECT_EQ(code_of([&] { live(events, life); }), Code::io_failed);
  }
  EXPECT_THAT(sluice::detail::verify_checkpoints(files(), checkpoint).problems, IsEmpty());
  // The batch was complete, so it runs again for its state alone.
  events.emplace_back();
  live(events, {.batches = 1});
  EXPECT_EQ(seen.size(), events.size());
  EXPECT_TRUE(seen == expected(events));
}

TEST_F(LargeStateLives, AReplayChangesNothing) {
  const Events events = random_events(53, 6, 60);
  StreamTestOptions options = lives.options();
  options.checkpoint_interval = 1h;
  const auto declare = [&](StreamTest& t) {
    t.stream<Event>(events)
        .name("in")
        .update_state_by_key(digits, {.idle_keeps_state = true})
        .name("digits")
        .state(sluice::rocksdb)
        .changes()
        .print();
  };
  ::testing::internal::CaptureStdout();
  lives.live(options, [&](StreamTest& t) {
    declare(t);
    t.run(6);
  });
  const std::string production = ::testing::internal::GetCapturedStdout();
  const auto before = lives.listing();
  const OutsideSetting replay("SLUICE_REPLAY", std::to_string(to_milliseconds(lives.runtime.clock().now() - 2s)));
  ::testing::internal::CaptureStdout();
  lives.live(options, [&](StreamTest& t) {
    declare(t);
    t.start();
    t.streaming().await_termination();
  });
  const std::string replayed = ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(replayed, HasSubstr("("));
  EXPECT_THAT(production, HasSubstr(replayed));
  EXPECT_EQ(lives.listing(), before);
}

TEST(LargeStateIn, ASimulationIsRefused) {
  Simulation sim(1);
  std::optional<Code> code;
  sim.run([&] {
    StreamTest t({.runtime = &sim});
    t.output(t.stream<Event>({}).update_state_by_key(digits).state(sluice::rocksdb));
    code = code_of([&] { t.run(1); });
  });
  EXPECT_EQ(code, Code::no_state_backend);
}

}  // namespace
}  // namespace sluice::testing
