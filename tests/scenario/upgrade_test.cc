// A program is changed between two lives: what it keeps goes on with the operators of the same names (DESIGN 8).
#include <gmock/gmock.h>

#include <map>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sluice/stream/checkpoint_directory.h"
#include "tests/scenario/lives.h"

namespace sluice::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using Pairs = std::vector<std::pair<int, long>>;
using Sums = std::map<int, long>;

// Batch n of the input has (k, n) for the keys 0..9.
std::vector<Pairs> input(int batches) {
  std::vector<Pairs> lists;
  for (int n = 1; n <= batches; ++n) {
    lists.emplace_back();
    for (int key = 0; key < 10; ++key) lists.back().emplace_back(key, n);
  }
  return lists;
}
// With them, each key has this sum after so many batches.
Sums sums_after(int batches) {
  Sums sums;
  for (int key = 0; key < 10; ++key) sums[key] = batches * (batches + 1) / 2;
  return sums;
}

std::optional<long> add(std::span<const long> now, std::optional<long> before) {
  return std::accumulate(now.begin(), now.end(), before.value_or(0));
}

template <class T>
std::map<int, T> as_map(const Records<std::pair<int, T>>& records) {
  std::map<int, T> map;
  for (std::size_t i = 0; i < records.size(); ++i) map[records[i].first] = records[i].second;
  return map;
}
template <class T>
std::map<int, T> last(const Output<std::pair<int, T>>& output) {
  return output.batches().empty() ? std::map<int, T>() : as_map(output.batches().back().records);
}

/// The first version of the program: sums named "sums", over so many batches.
void first_version(StreamTest& t, int batches) {
  const auto out = t.output(t.stream(input(10)).name("in").update_state_by_key(add).name("sums"));
  t.run(static_cast<std::size_t>(batches));
  ASSERT_EQ(last(out), sums_after(batches));
}

// Every change must be right after a graceful stop, whose checkpoint has the last batch, and after a kill, when batches
// run again for their state: here all of them.
class Upgrade : public ::testing::TestWithParam<bool> {
 protected:
  StreamTestOptions options() {
    StreamTestOptions options = lives.options();
    options.checkpoint_interval = 1h;
    return options;
  }
  void live(const std::function<void(StreamTest&)>& program) { live(options(), program); }
  void live(const StreamTestOptions& options, const std::function<void(StreamTest&)>& program) {
    lives.live(options, [&](StreamTest& t) {
      program(t);
      if (GetParam()) t.stop(true);
    });
  }

  Lives lives;
};
INSTANTIATE_TEST_SUITE_P(After, Upgrade, ::testing::Bool(),
                         [](const auto& each) { return std::string(each.param ? "AStop" : "AKill"); });

TEST_P(Upgrade, TheSameProgramGoesOn) {
  live([](StreamTest& t) { first_version(t, 3); });
  live([](StreamTest& t) {
    const auto out = t.output(t.stream(input(10)).name("in").update_state_by_key(add).name("sums"));
    t.run(5);
    ASSERT_EQ(out.batches().size(), 2U) << "no batch is given to an output that has seen it";
    EXPECT_EQ(last(out), sums_after(5));
  });
}

TEST_P(Upgrade, AnOperatorIsAdded) {
  live([](StreamTest& t) { first_version(t, 3); });
  live([](StreamTest& t) {
    const auto in = t.stream(input(10)).name("in");
    const auto counts = t.output(in.map_values([](long) { return 1L; }).update_state_by_key(add).name("counts"));
    const auto sums = t.output(in.update_state_by_key(add).name("sums"));
    t.run(5);
    EXPECT_EQ(last(sums), sums_after(5));
    EXPECT_EQ(last(counts).at(0), GetParam() ? 2 : 5) << "it begins empty, at the first batch that runs";
  });
  live([](StreamTest& t) {
    const auto in = t.stream(input(10)).name("in");
    const auto counts = t.output(in.map_values([](long) { return 1L; }).update_state_by_key(add).name("counts"));
    const auto sums = t.output(in.update_state_by_key(add).name("sums"));
    t.run(6);
    EXPECT_EQ(last(sums), sums_after(6));
    EXPECT_EQ(last(counts).at(0), GetParam() ? 3 : 6);
  });
}

TEST_P(Upgrade, AnOperatorIsRemovedOnPurposeOnly) {
  live([](StreamTest& t) { first_version(t, 3); });
  int batches = 5;
  const auto without = [&](StreamTest& t) {
    const auto out = t.output(t.stream(input(10)).name("in").reduce_by_key(std::plus{}));
    t.run(static_cast<std::size_t>(batches));
    EXPECT_EQ(last(out).at(7), batches);
    t.stop(true);  // its checkpoint is the first one without the state
  };
  EXPECT_THAT(message_of([&] { live(without); }), AllOf(HasSubstr("SLU-116"), HasSubstr("\"sums\"")));
  {
    const OutsideSetting drop("SLUICE_DROP_STATE", "sums");
    live(without);
  }
  // Once dropped it is gone: without the setting the program starts.
  batches = 6;
  live(without);
  // And an operator of that name begins anew.
  live([](StreamTest& t) {
    const auto out = t.output(t.stream(input(10)).name("in").update_state_by_key(add).name("sums"));
    t.run(7);
    EXPECT_EQ(last(out).at(0), 7);
  });
}

TEST_P(Upgrade, AnOperatorIsRenamed) {
  live([](StreamTest& t) { first_version(t, 3); });
  live([](StreamTest& t) {
    const auto out = t.output(t.stream(input(10)).name("in").update_state_by_key(add).name("totals").alias("sums"));
    t.run(4);
    EXPECT_EQ(last(out), sums_after(4));
    t.stop(true);
  });
  // From the next checkpoint on it is known by its new name.
  live([](StreamTest& t) {
    const auto out = t.output(t.stream(input(10)).name("in").update_state_by_key(add).name("totals"));
    t.run(5);
    EXPECT_EQ(last(out), sums_after(5));
  });
}

struct Total {
  long sum = 0;
  friend bool operator==(const Total&, const Total&) = default;
};
struct TotalWithCount {
  long sum = 0;
  int count = 100;
  friend bool operator==(const TotalWithCount&, const TotalWithCount&) = default;
};

TEST_P(Upgrade, AFieldIsAddedToAState) {
  live([](StreamTest& t) {
    t.output(t.stream(input(10))
                 .name("in")
                 .update_state_by_key([](std::span<const long> now, std::optional<Total> before) {
                   return std::optional(Total{std::accumulate(now.begin(), now.end(), before.value_or(Total{}).sum)});
                 })
                 .name("totals"));
    t.run(3);
  });
  const auto second_version = [](StreamTest& t) {
    return t.output(t.stream(input(10))
                        .name("in")
                        .update_state_by_key([](std::span<const long> now, std::optional<TotalWithCount> before) {
                          TotalWithCount total = before.value_or(TotalWithCount{});
                          total.sum = std::accumulate(now.begin(), now.end(), total.sum);
                          ++total.count;
                          return std::optional(total);
                        })
                        .name("totals"));
  };
  live([&](StreamTest& t) {
    const auto out = second_version(t);
    t.run(5);
    // 100 is the default of the declaration: the state that was read had no count.
    EXPECT_EQ(last(out).at(3), (TotalWithCount{15, GetParam() ? 102 : 105}));
  });
  live([&](StreamTest& t) {
    const auto out = second_version(t);
    t.run(6);
    EXPECT_EQ(last(out).at(3), (TotalWithCount{21, GetParam() ? 103 : 106}));
  });
}

TEST_P(Upgrade, AnIncompatibleChangeIsRefusedByName) {
  live([](StreamTest& t) { first_version(t, 3); });
  const auto refused = [&](const std::function<void(StreamTest&)>& program) {
    const std::string error = message_of([&] { live(program); });
    EXPECT_THAT(error, AllOf(HasSubstr("SLU-117"), HasSubstr("operation: sums"), HasSubstr("upgrade_test.cc")));
    return error;
  };
  // Another type of state,
  const std::string error = refused([](StreamTest& t) {
    t.output(t.stream(input(10))
                 .name("in")
                 .update_state_by_key([](std::span<const long>, std::optional<std::string>) {
                   return std::optional(std::string("text"));
                 })
                 .name("sums"));
    t.run(5);
  });
  EXPECT_THAT(error, AllOf(HasSubstr("i64"), HasSubstr("text")));
  // another type of key,
  refused([](StreamTest& t) {
    t.output(
        t.stream(input(10))
            .name("in")
            .map([](const std::pair<int, long>& each) { return std::pair(std::to_string(each.first), each.second); })
            .update_state_by_key(add)
            .name("sums"));
    t.run(5);
  });
  // another kind of operator.
  refused([](StreamTest& t) {
    t.output(t.stream(input(10))
                 .name("in")
                 .reduce_by_key_and_window(std::plus{}, std::minus{}, {.length = 4s})
                 .name("sums"));
    t.run(5);
  });
  // Nothing was changed by the refusals.
  live([](StreamTest& t) {
    const auto out = t.output(t.stream(input(10)).name("in").update_state_by_key(add).name("sums"));
    t.run(5);
    EXPECT_EQ(last(out), sums_after(5));
  });
}

TEST_P(Upgrade, OtherSettingsOfTheDirectoryAreRefused) {
  live([](StreamTest& t) { first_version(t, 3); });
  StreamTestOptions other = options();
  other.hash_seed = 7;
  EXPECT_THAT(message_of([&] { live(other, [](StreamTest& t) { first_version(t, 4); }); }),
              AllOf(HasSubstr("SLU-118"), HasSubstr("hash-seed")));
}

/// A window with an inverse, one with the records themselves, a state: all that is kept.
struct Everything {
  Output<std::pair<int, long>> sums;
  Output<std::pair<int, long>> window;
  Output<std::pair<int, long>> sliding;
  Output<std::pair<int, long>> plain;

  Everything(StreamTest& t, const DStream<std::pair<int, long>>& in, Duration unit)
      : sums(t.output(in.update_state_by_key(add, {.idle_keeps_state = true}).name("sums"))),
        window(t.output(in.reduce_by_key_and_window(std::plus{}, std::minus{}, {.length = unit * 4}).name("window"))),
        sliding(t.output(in.reduce_by_key_and_window(std::plus{}, std::minus{}, {.length = unit * 4, .slide = unit * 2})
                             .name("sliding"))),
        plain(t.output(in.window({.length = unit * 3}).name("plain").reduce_by_key(std::plus{}))) {}
};

TEST_P(Upgrade, TheNumberOfPartitionsChanges) {
  // Ten lives of two batches each.
  for (int life = 0; life < 10; ++life) {
    SCOPED_TRACE(life);
    StreamTestOptions changed = options();
    changed.partitions = std::vector<std::size_t>{2, 5, 1, 64, 3}[static_cast<std::size_t>(life) % 5];
    live(changed, [&](StreamTest& t) {
      const Everything out(t, t.stream(input(20)).name("in"), 1s);
      t.run(static_cast<std::size_t>(life) * 2 + 2);
      const int batch = life * 2 + 2;
      const auto sum_of_last = [batch](int count) {
        long sum = 0;
        for (int n = std::max(1, batch - count + 1); n <= batch; ++n) sum += n;
        return sum;
      };
      ASSERT_EQ(last(out.sums), sums_after(batch));
      ASSERT_EQ(last(out.window).size(), 10U);
      ASSERT_EQ(last(out.window).at(4), sum_of_last(4));
      ASSERT_EQ(last(out.sliding).at(4), sum_of_last(4));
      ASSERT_EQ(last(out.plain).at(4), sum_of_last(3));
    });
  }
}

TEST_P(Upgrade, TheIntervalBecomesADivisorAndThenAMultiple) {
  // The files come at certain times, whatever the interval is; sums over all time do not depend on it.
  lives.runtime.files().make_directories(lives.directory + "/in");
  int written = 0;
  Time begin = lives.runtime.clock().now();
  const auto write = [&] {
    lives.runtime.files().publish(lives.directory + "/in/" + std::to_string(written), "1\n2\n3\n");
    ++written;
  };
  // Runs so many steps of 2 s, with a file each.
  const auto run = [&](Duration interval, int steps) {
    SCOPED_TRACE(to_string(interval));
    StreamTestOptions changed = options();
    changed.batch = interval;
    live(changed, [&](StreamTest& t) {
      const auto in =
          t.streaming()
              .text_file_stream(lives.directory + "/in", {.existing_files = true})
              .map([](std::string_view line) { return std::pair<int, long>(std::stoi(std::string(line)), 1); });
      const auto sums = t.output(in.update_state_by_key(add).name("sums"));
      const auto window =
          t.output(in.reduce_by_key_and_window(std::plus{}, std::minus{}, {.length = 8s}).name("window"));
      t.start();
      for (int step = 0; step < steps; ++step) {
        write();
        for (const Time end = lives.runtime.clock().now() + 2s; lives.runtime.clock().now() < end;) {
          const std::size_t before = t.batches_completed();
          t.advance(interval);
          // A graceful stop has run a batch ahead of its time.
          if (lives.runtime.clock().now() > begin) t.streaming().driver()->await_batches(before + 1);
        }
      }
      if (steps == 0) return t.stop(true);
      EXPECT_EQ(last(sums), (Sums{{1, written}, {2, written}, {3, written}}));
      // The last 8 s had four files, in whatever intervals they were.
      EXPECT_EQ(last(window), (Sums{{1, 4}, {2, 4}, {3, 4}}));
      begin = sums.batches().back().time + (GetParam() ? interval : Duration());
    });
  };
  run(1000ms, 4);
  run(250ms, 4);
  // Batches that came after the checkpoint run again, at their own times.
  if (!GetParam()) {
    EXPECT_THAT(message_of([&] { run(500ms, 4); }), AllOf(HasSubstr("SLU-118"), HasSubstr("stop gracefully")));
    run(250ms, 0);
    begin += 250ms;
  }
  run(500ms, 4);
  if (!GetParam()) {
    run(500ms, 0);
    begin += 500ms;
  }
  run(2000ms, 4);
  run(1000ms, 4);
}

TEST_P(Upgrade, AnIntervalThatDoesNotFitAWindowIsRefusedByName) {
  live([](StreamTest& t) {
    t.output(t.stream(input(10))
                 .name("in")
                 .reduce_by_key_and_window(std::plus{}, std::minus{}, {.length = 6s})
                 .name("window"));
    t.run(3);
    t.stop(true);
  });
  StreamTestOptions changed = options();
  changed.batch = 1500ms;
  EXPECT_THAT(message_of([&] {
                live(changed, [](StreamTest& t) {
                  t.output(t.stream(input(10))
                               .name("in")
                               .reduce_by_key_and_window(std::plus{}, std::minus{}, {.length = 6s})
                               .name("window"));
                  t.run(3);
                });
              }),
              AllOf(HasSubstr("SLU-118"), HasSubstr("operation: window"), HasSubstr("1.5 s")));
}

TEST_P(Upgrade, StateWithoutANameIsRefused) {
  EXPECT_THAT(message_of([&] {
                live([](StreamTest& t) {
                  t.output(t.stream(input(10)).update_state_by_key(add));
                  t.run(1);
                });
              }),
              AllOf(HasSubstr("SLU-115"), HasSubstr("update_state_by_key"), HasSubstr("upgrade_test.cc")));
}

TEST_P(Upgrade, ADryRunTellsWhatWouldBecomeOfItAndChangesNothing) {
  live([](StreamTest& t) {
    const auto in = t.stream(input(10)).name("in");
    t.output(in.update_state_by_key(add).name("sums"));
    t.output(in.reduce_by_key_and_window(std::plus{}, std::minus{}, {.length = 4s}).name("gone"));
    t.run(3);
  });
  const auto before = lives.listing();
  std::string report;
  {
    const OutsideSetting drop("SLUICE_DROP_STATE", "gone");
    const OutsideSetting dry("SLUICE_DRY_RUN", "true");
    ::testing::internal::CaptureStdout();
    StreamTestOptions changed = options();
    changed.partitions = 5;
    live(changed, [](StreamTest& t) {
      const auto in = t.stream(input(10)).name("in");
      const auto out = t.output(in.update_state_by_key(add).name("totals").alias("sums"));
      t.output(in.map_values([](long) { return 1L; }).update_state_by_key(add).name("counts"));
      t.start();
      t.streaming().await_termination();
      EXPECT_THAT(out.batches(), ::testing::IsEmpty());
    });
    report = ::testing::internal::GetCapturedStdout();
  }
  EXPECT_EQ(lives.listing(), before);
  EXPECT_THAT(report, AllOf(HasSubstr("totals takes state \"sums\""), HasSubstr("2 partitions become 5"),
                            HasSubstr("counts takes nothing"), HasSubstr("gone is dropped")));
}

TEST_P(Upgrade, BatchesOfAnotherBuildAreFinishedOnPurposeOnly) {
  live([](StreamTest& t) { first_version(t, 3); });
  // A run of another build, which records a batch and dies before any of its outputs is done.
  {
    sluice::detail::CheckpointDirectoryOptions other;
    other.path = options().checkpoint;
    other.app = "test";
    other.build = 4711;
    other.interval = 1s;
    sluice::detail::CheckpointDirectory directory(lives.runtime, other);
    const sluice::detail::JournalContent& journal = directory.journal_content();
    const std::string choice = journal.batches.rbegin()->second.inputs.at("in");
    const Time time = journal.batches.rbegin()->first + 1s;
    directory.begin_run(journal.zero, {"in"}, {"foreach_rdd sums"}, false);
    Encoder next;
    next.varint(3);
    directory.journal().batch(time, {next.take()}, {{}});
    directory.wait_durable();
  }
  const auto again = [](StreamTest& t) {
    const auto out = t.output(t.stream(input(10)).name("in").update_state_by_key(add).name("sums"));
    t.run(5);
    EXPECT_EQ(out.batches().size(), 2U);
    EXPECT_EQ(last(out), sums_after(5));
  };
  EXPECT_THAT(message_of([&] { live(again); }), HasSubstr("SLU-119"));
  const OutsideSetting accept("SLUICE_ACCEPT_REPLAY_WITH_NEW_CODE", "true");
  live(again);
}

}  // namespace
}  // namespace sluice::testing
