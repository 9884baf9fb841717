// Outputs that fail, outputs of a run that has been replaced, and outputs shown again (DESIGN 8 and 9).
#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "sluice/runtime/random.h"
#include "tests/scenario/lives.h"

namespace sluice::testing {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::vector<std::vector<int>> lists{{1}, {2}, {3}, {4}, {5}, {6}};

/// Has each batch's sum.
struct Seen {
  std::vector<long> sums;
  bool fails = false;
  auto function() {
    return [this](const Rdd<int>& rdd) {
      long sum = 0;
      for (const int x : rdd.collect()) sum += x;
      if (fails) throw std::runtime_error("the disk of the others is full");
      sums.push_back(sum);
    };
  }
};

TEST(Outputs, OneThatFailsIsTriedAgain) {
  Lives lives;
  StreamTestOptions options = lives.options();
  options.output_tries = 3;
  std::atomic<int> calls = 0;
  lives.live(options, [&](StreamTest& t) {
    const auto in = t.stream(lists).name("in");
    in.foreach_rdd([&](const Rdd<int>&) {
        if (++calls < 3) throw std::runtime_error("not yet");
      }).name("out");
    t.start();
    t.advance(1s);
    // It waits longer each time.
    while (calls < 3 && t.streaming().state() == StreamState::active) t.advance(10ms);
    t.streaming().driver()->await_batches(1);
    t.stop(true);
  });
  EXPECT_GE(calls.load(), 3);  // with the batches that became due meanwhile
}

TEST(Outputs, WhatStoppedTheStreamIsAllThatRunsAgain) {
  Lives lives;
  Seen good;
  Seen bad;
  const auto program = [&](StreamTest& t) {
    const auto in = t.stream(lists).name("in");
    in.foreach_rdd(good.function()).name("good");
    in.foreach_rdd(bad.function()).name("bad");
    t.run(1);
    bad.fails = good.sums.size() == 1;
    t.run(3);
  };
  EXPECT_THAT(message_of([&] { lives.live(program); }), HasSubstr("the disk of the others is full"));
  EXPECT_THAT(good.sums, ElementsAre(1, 2));
  EXPECT_THAT(bad.sums, ElementsAre(1));
  bad.fails = false;
  lives.live(program);
  EXPECT_THAT(good.sums, ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(bad.sums, ElementsAre(1, 2, 3, 4));
}

TEST(Outputs, WhatOneLacksIsDeliveredLaterAcrossARestart) {
  Lives lives;
  StreamTestOptions options = lives.options();
  options.failed_output = FailedOutput::go_on;
  Seen good;
  Seen bad;
  const auto live = [&](std::size_t batches, bool fails) {
    bad.fails = fails;
    lives.live(options, [&](StreamTest& t) {
      const auto in = t.stream(lists).name("in");
      in.foreach_rdd(good.function()).name("good");
      in.foreach_rdd(bad.function()).name("bad");
      t.run(batches);
    });
  };
  live(1, false);
  live(3, true);
  EXPECT_THAT(good.sums, ElementsAre(1, 2, 3));
  EXPECT_THAT(bad.sums, ElementsAre(1));
  live(4, true);
  EXPECT_THAT(bad.sums, ElementsAre(1));
  live(6, false);
  EXPECT_THAT(good.sums, ElementsAre(1, 2, 3, 4, 5, 6));
  std::sort(bad.sums.begin(), bad.sums.end());
  EXPECT_THAT(bad.sums, ElementsAre(1, 2, 3, 4, 5, 6));
}

/// What a sink was given over all lives, and what it was told.
struct Given {
  struct One {
    Time batch;
    Time settled;
    bool taken;
  };
  std::vector<One> all;
  std::vector<Time> taken;
  std::vector<std::string> said_at_start;
  std::string said;
  bool fails = false;
};

/// Notes each batch in a Given. Says how many it has taken.
class NotingSink : public Sink<int> {
  class Writer : public SinkWriter<int> {
   public:
    void write(std::span<const int>) override {}
    std::string finish() override { return {}; }
  };
  class Writers : public SinkWriters<int> {
   public:
    std::unique_ptr<SinkWriter<int>> open(const SinkPartition&) const override { return std::make_unique<Writer>(); }
  };

 public:
  explicit NotingSink(Given& given) : given_(given) {}
  Contract contract() const override { return Contract::transactional; }
  std::string argument() const override { return "given"; }
  void start(const SinkStart& start) override { given_.said_at_start.push_back(start.said); }
  sluice::detail::Shipped<SinkWriters<int>> writers() const override { return ship_writers<int, Writers>(); }
  std::string commit(const SinkBatch& batch, const std::vector<std::string>&) override {
    given_.all.push_back({batch.batch, batch.settled, !given_.fails});
    if (given_.fails) throw std::runtime_error("the disk of the others is full");
    given_.taken.push_back(batch.batch);
    given_.said = std::to_string(given_.taken.size());
    return given_.said;
  }

 private:
  Given& given_;
};

/// A program with a NotingSink, in a directory of its own.
struct Noting {
  /// Runs `batches`, of which `done` were there before and run again at most; says before each of the others, and first
  /// of all, whether the sink fails.
  void live(std::size_t done, std::size_t batches, const std::function<bool()>& fails, bool graceful = false) {
    lives.live(options, [&](StreamTest& t) {
      t.stream(lists).name("in").save_to(std::make_shared<NotingSink>(given)).name("out");
      given.fails = fails();
      t.run(done);
      for (std::size_t batch = done; batch < batches; ++batch) {
        given.fails = fails();
        t.run(1);
      }
      if (graceful) t.stop(true);
    });
  }
  void live(std::size_t batches, bool fails, bool graceful = false) {
    live(batches, batches, [fails] { return fails; }, graceful);
  }

  Lives lives;
  StreamTestOptions options = [this] {
    StreamTestOptions made = lives.options();
    made.failed_output = FailedOutput::go_on;
    return made;
  }();
  Given given;
};

TEST(Outputs, ASinkIsToldWhichBatchesAreSettled) {
  Noting noting;
  Given& given = noting.given;
  noting.live(2, false);
  ASSERT_EQ(given.all.size(), 2u);
  const Time first = given.all[0].batch;
  EXPECT_EQ(given.all[0].settled, first);
  EXPECT_EQ(given.all[1].settled, first + 1s);
  noting.live(4, true);  // the third and fourth are owed
  for (const Given::One& one : given.all) {
    if (one.batch > first + 2s) {
      EXPECT_EQ(one.settled, first + 2s);
    }
  }
  given.all.clear();
  noting.live(6, false);
  // The fifth comes first, then what is owed, one after the other.
  ASSERT_GE(given.all.size(), 3u);
  EXPECT_EQ(given.all[0].settled, first + 2s);
  EXPECT_EQ(given.all[1].batch, first + 2s);
  EXPECT_EQ(given.all[1].settled, first + 2s);
  EXPECT_EQ(given.all[2].batch, first + 3s);
  EXPECT_EQ(given.all[2].settled, first + 3s);
  EXPECT_EQ(given.all.back().settled, given.all.back().batch);
  EXPECT_EQ(given.taken.size(), 6u);
}

TEST(Outputs, NoBatchBeforeASettledOneIsGivenAgain) {
  std::size_t owed = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    Noting noting;
    const Given& given = noting.given;
    noting.options.checkpoint_interval = std::chrono::seconds(random.below(4));
    std::size_t done = 0;
    for (int life = 0; life < 8; ++life) {
      const bool last = life == 7;
      const std::size_t batches = done + (last ? 3 : random.below(4));
      noting.live(done, batches, [&] { return !last && random.chance(0.5); });
      done = batches;
    }
    // What a killed life said last may not have been noted, and is then said of the same batch again.
    EXPECT_EQ(given.said_at_start.front(), "");
    Time settled{};
    std::vector<Time> once;
    for (const Given::One& one : given.all) {
      ASSERT_GE(one.batch, settled);
      ASSERT_LE(one.settled, one.batch);
      ASSERT_GE(one.settled, settled);
      settled = one.settled;
      if (one.taken) once.push_back(one.batch);
      owed += !one.taken;
    }
    EXPECT_EQ(settled, given.all.back().batch) << "nothing is owed at the end";
    std::sort(once.begin(), once.end());
    once.erase(std::unique(once.begin(), once.end()), once.end());
    // None is missing; each life's first batch comes when it comes, so times need not follow one another.
    std::vector<Time> all;
    for (const Given::One& one : given.all) all.push_back(one.batch);
    std::sort(all.begin(), all.end());
    all.erase(std::unique(all.begin(), all.end()), all.end());
    EXPECT_EQ(once, all);
  }
  EXPECT_GT(owed, 20u);
}

/// What functions of tasks were given, over all lives: these run in threads of this process.
struct Written {
  std::mutex mutex;
  std::vector<std::pair<PartitionId, std::vector<int>>> all;
  bool fails = false;
};
Written* written = nullptr;

TEST(Outputs, APartitionIsWrittenUnderTheSameNameHoweverOftenItIsTried) {
  Lives lives;
  Written seen;
  written = &seen;
  StreamTestOptions options = lives.options();
  options.task_tries = 2;
  const auto live = [&](std::size_t batches) {
    lives.live(options, [&](StreamTest& t) {
      t.stream<int>({{1, 2, 3}, {4, 5}, {6}})
          .name("in")
          .foreach_rdd([](const Rdd<int>& rdd) {
            rdd.map([](int x) { return x * 10; })
                .foreach_partition("tens", [](Partition<int>& partition, const PartitionId& id) {
                  std::vector<int> records;
                  for (const int x : partition) records.push_back(x);
                  const std::lock_guard lock(written->mutex);
                  written->all.emplace_back(id, records);
                  if (id.attempt == 0 || written->fails) throw std::runtime_error("not at once");
                });
          })
          .name("tens");
      t.run(batches);
    });
  };
  live(1);
  seen.fails = true;
  EXPECT_THAT(message_of([&] { live(2); }), HasSubstr("not at once"));
  seen.fails = false;
  live(3);
  std::map<std::tuple<std::string, Time, std::size_t>, std::set<std::vector<int>>> records;
  std::map<std::tuple<std::string, Time, std::size_t>, std::vector<std::uint32_t>> attempts;
  for (const auto& [id, some] : seen.all) {
    records[{id.job, id.batch, id.partition}].insert(some);
    attempts[{id.job, id.batch, id.partition}].push_back(id.attempt);
  }
  ASSERT_EQ(records.size(), 6u);  // three batches of two partitions
  std::vector<std::vector<int>> in_order;
  for (const auto& [key, some] : records) {
    EXPECT_EQ(std::get<0>(key), "tens");
    EXPECT_EQ(some.size(), 1u) << "the same records each time";
    in_order.push_back(*some.begin());
    ASSERT_GE(attempts[key].size(), 2u);
    EXPECT_THAT(std::vector(attempts[key].end() - 2, attempts[key].end()), ElementsAre(0, 1));
  }
  // The second batch was given up when one of its tasks had failed twice, and run again by the next life.
  EXPECT_GE(seen.all.size(), 6u * 2 + 2);
  using Ints = std::vector<int>;
  EXPECT_THAT(in_order, ElementsAre(Ints{10}, Ints{20, 30}, Ints{40}, Ints{50}, Ints{}, Ints{60}));
}

TEST(Outputs, WhatASinkSaidOfAnOwedBatchIsTheLastItSaid) {
  Noting noting;
  noting.live(2, true);
  noting.live(3, false, true);  // its batch, and then the two
  ASSERT_EQ(noting.given.taken.size(), 3u);
  noting.live(4, false, true);
  EXPECT_EQ(noting.given.said_at_start.back(), "3");
}

TEST(Outputs, OfAKilledRunThatNobodyOwesGoAtTheNextStart) {
  Lives lives;
  StreamTestOptions options = lives.options();
  options.failed_output = FailedOutput::go_on;
  Seen seen;
  const auto live = [&](std::size_t batches, bool fails) {
    seen.fails = fails;
    lives.live(options, [&](StreamTest& t) {
      t.stream(lists).name("in").foreach_rdd(seen.function()).name("out");
      t.run(batches);
    });
  };
  FileSystem& files = lives.runtime.files();
  const std::string owed = options.checkpoint + "/owed";
  live(2, true);
  ASSERT_EQ(files.list(owed)->size(), 2u);
  // Published by a run that was killed before its journal told of it.
  files.publish(owed + "/000000000099000-0123456789abcdef", "records");
  live(2, true);
  EXPECT_EQ(files.list(owed)->size(), 2u);
  live(3, false);
  EXPECT_THAT(files.list(owed).value(), IsEmpty());
  std::sort(seen.sums.begin(), seen.sums.end());
  EXPECT_THAT(seen.sums, ElementsAre(1, 2, 3));
}

/// The same machine, another process.
struct OtherProcess : HandRuntime {
  std::uint64_t process() const override { return 2; }
};

TEST(Outputs, OfARunThatWasReplacedNothingMoreIsSeen) {
  Lives lives;
  OtherProcess other;
  Seen of_old;
  Seen of_new;
  const auto declare = [](StreamTest& t, Seen& seen) {
    t.stream(lists).name("in").foreach_rdd(seen.function()).name("out");
  };
  std::string error;
  lives.live([&](StreamTest& old) {
    declare(old, of_old);
    old.run(2);
    StreamTestOptions options = lives.options();
    options.runtime = &other;
    other.advance(lives.runtime.clock().now() - other.clock().now());
    StreamTest replacing(options);
    declare(replacing, of_new);
    replacing.run(4);
    error = message_of([&] { old.run(3); });
  });
  EXPECT_THAT(error, HasSubstr("SLU-209"));
  EXPECT_THAT(of_old.sums, ElementsAre(1, 2));
  // The record of the second batch may not have been on the disk when the other run read it.
  EXPECT_THAT(of_new.sums, AnyOf(ElementsAre(3, 4), ElementsAre(2, 3, 4)));
}

TEST(Outputs, AreShownAgainByAReplayThatChangesNothing) {
  Lives lives;
  const auto declare = [](StreamTest& t) {
    t.stream(lists)
        .name("in")
        .map([](int x) { return std::pair(x % 2, x); })
        .update_state_by_key([](std::span<const int> now, std::optional<int> sum) {
          for (const int x : now) sum = sum.value_or(0) + x;
          return sum;
        })
        .name("sums")
        .print();
  };
  const auto replay_it = [&](StreamTest& t) {
    declare(t);
    t.start();
    t.streaming().await_termination();
  };
  StreamTestOptions options = lives.options();
  options.checkpoint_interval = 1h;
  ::testing::internal::CaptureStdout();
  lives.live(options, [&](StreamTest& t) {
    declare(t);
    t.run(6);
  });
  const std::string production = ::testing::internal::GetCapturedStdout();
  const Time fourth = Time(lives.runtime.clock().now() - 2s);

  // What a run that goes on meanwhile may be about to note.
  FileSystem& files = lives.runtime.files();
  files.make_directories(options.checkpoint + "/owed");
  files.publish(options.checkpoint + "/owed/000000000099000-0123456789abcdef", "records");
  const auto before = lives.listing();
  std::string replayed;
  {
    const OutsideSetting replay("SLUICE_REPLAY", std::to_string(to_milliseconds(fourth)));
    ::testing::internal::CaptureStdout();
    lives.live(options, replay_it);
    replayed = ::testing::internal::GetCapturedStdout();
  }
  EXPECT_FALSE(replayed.empty());
  EXPECT_THAT(production, HasSubstr(replayed));
  EXPECT_EQ(lives.listing(), before);

  const OutsideSetting replay("SLUICE_REPLAY", std::to_string(to_milliseconds(fourth) + 1));
  EXPECT_THAT(message_of([&] { lives.live(options, replay_it); }), HasSubstr("SLU-210"));
}

}  // namespace
}  // namespace sluice::testing
