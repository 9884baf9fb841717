// Logs under crashes: owner after owner on one disk, killed at any step, with and without the machine, some of them
// still alive when the next one takes over. The test knows what was appended and what anybody was told.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "sluice/runtime/errors.h"
#include "sluice/stream/log.h"
#include "sluice/testkit/simulation.h"

namespace sluice::detail {
namespace {

using testing::SimulatedCrash;
using testing::Simulation;
using testing::SimulationOptions;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
// The leak checker looks through the memory of every process that was killed, once for each.
constexpr std::uint64_t seeds = 100;
#else
constexpr std::uint64_t seeds = 500;
#endif

const std::string directory = "/ckpt/log";

struct Record {
  std::string text;
  std::uint64_t segment = 0;
  std::uint64_t end = 0;
};

/// What is known of one owner.
struct Owner {
  std::uint64_t epoch = 0;
  std::deque<Record> appended;
  /// `wait_durable` has returned for all up to here.
  std::uint64_t durable_end = 0;
  /// How many records of each earlier owner it found when it began.
  std::map<std::uint64_t, std::size_t> found;

  /// Records that are older than what readers begin with.
  std::size_t count_before(std::uint64_t segment) const {
    const auto begin =
        std::find_if(appended.begin(), appended.end(), [&](const Record& record) { return record.segment >= segment; });
    return static_cast<std::size_t>(begin - appended.begin());
  }
};

/// What all histories together have come across.
struct Coverage {
  std::uint64_t crashes = 0;
  std::uint64_t takeovers = 0;
  std::uint64_t failures = 0;
  std::uint64_t torn = 0;
  std::uint64_t strays = 0;
  std::uint64_t removals = 0;
  std::uint64_t found = 0;
  std::uint64_t lost = 0;
};

/// One disk and its owners, one after the other.
class History {
 public:
  History(std::uint64_t seed, Coverage& coverage)
      : sim_(seed, options_of(seed)), random_(seed ^ 0x10ad), coverage_(coverage) {}

  void run() {
    for (std::uint64_t lives = 2 + random_.below(5); lives > 0; --lives) {
      sim_.crash_after(1 + random_.below(random_.chance(0.5) ? 60 : 600));
      try {
        sim_.run([&] { live(); });
      } catch (const SimulatedCrash&) {
        ++coverage_.crashes;
      }
      if (random_.chance(0.5)) sim_.crash_disk();
      if (::testing::Test::HasFailure()) return;
    }
    sim_.crash_disk();
    take_over(begin_owner());
  }

  std::uint64_t trace_hash() const { return sim_.trace_hash(); }

 private:
  static SimulationOptions options_of(std::uint64_t seed) {
    SimulationOptions options;
    if (seed % 4 == 1) options.write_failure = 0.02;
    if (seed % 8 == 3) options.sync_failure = 0.02;
    return options;
  }

  // A process with one owner, and perhaps a second one that takes over while the first one writes.
  void live() {
    Owner& owner = begin_owner();
    Log log(sim_, directory, take_over(owner), options_for(owner));
    const std::vector<std::unique_ptr<Thread>> threads = start(log, owner);
    if (random_.chance(0.3)) {
      for (std::uint64_t pauses = random_.below(50); pauses > 0; --pauses) sim_.pause();
      ++coverage_.takeovers;
      Owner& next = begin_owner();
      Log next_log(sim_, directory, take_over(next), options_for(next));
      for (const auto& thread : start(next_log, next)) thread->join();
    }
    for (const auto& thread : threads) thread->join();
  }

  Owner& begin_owner() {
    owners_.push_back({.epoch = owners_.size() + 1});
    return owners_.back();
  }

  LogOptions options_for(const Owner& owner) {
    return {.epoch = owner.epoch, .segment_bytes = 1 + random_.below(2'000), .fenced = [this, &owner] {
              return owner.epoch != owners_.back().epoch;
            }};
  }

  LogContent take_over(Owner& owner) {
    std::map<std::uint64_t, std::vector<std::string>> texts;
    const std::uint64_t from = from_segment_;
    std::uint64_t last_epoch = 0;
    try {
      LogContent content = read_log(sim_.files(), directory, from, [&](const LogHandle& handle, std::string_view text) {
        EXPECT_GE(handle.epoch, last_epoch);
        last_epoch = handle.epoch;
        texts[handle.epoch].emplace_back(text);
      });
      coverage_.torn += content.torn_bytes > 0;
      coverage_.strays += !content.strays.empty();
      for (const Owner& earlier : owners_) {
        if (&earlier != &owner) compare(earlier, texts, from, owner);
      }
      return content;
    } catch (const Error& error) {
      ADD_FAILURE() << "seed " << sim_.seed() << ", epoch " << owner.epoch << ": " << error.what();
      return {};
    }
  }

  // What was read of `earlier` with what is known of it.
  void compare(const Owner& earlier, std::map<std::uint64_t, std::vector<std::string>>& texts, std::uint64_t from,
               Owner& reader) {
    SCOPED_TRACE("seed " + std::to_string(sim_.seed()) + ", records of epoch " + std::to_string(earlier.epoch) +
                 " read in " + std::to_string(reader.epoch));
    const std::vector<std::string>& read = texts[earlier.epoch];
    const std::size_t skipped = earlier.count_before(from);
    const std::size_t found = skipped + read.size();
    reader.found[earlier.epoch] = found;
    coverage_.found += read.size();
    coverage_.lost += found < earlier.appended.size();
    // A prefix in the order of appends (L3), and all of what was told to be durable (L1).
    ASSERT_LE(found, earlier.appended.size());
    for (std::size_t i = 0; i < read.size(); ++i) ASSERT_EQ(earlier.appended[skipped + i].text, read[i]);
    if (found < earlier.appended.size()) {
      ASSERT_GT(earlier.appended[found].end, earlier.durable_end);
    }
    // An owner that has left anything has settled what was before it.
    if (read.empty()) return;
    for (const auto& [epoch, count] : earlier.found) {
      const std::size_t gone = owners_[epoch - 1].count_before(from);
      ASSERT_EQ(texts[epoch].size(), count > gone ? count - gone : 0) << "of epoch " << epoch;
    }
  }

  std::vector<std::unique_ptr<Thread>> start(Log& log, Owner& owner) {
    std::vector<std::unique_ptr<Thread>> threads;
    for (std::uint64_t count = random_.below(4); count > 0; --count) {
      threads.push_back(sim_.spawn("appender", [this, &log, &owner] {
        try {
          append_some(log, owner);
        } catch (const Error& error) {
          ++coverage_.failures;
          EXPECT_TRUE(error.code() == Code::io_failed || error.code() == Code::fenced) << error.what();
        }
      }));
    }
    return threads;
  }

  void append_some(Log& log, Owner& owner) {
    for (std::uint64_t count = random_.below(30); count > 0; --count) {
      std::string text = std::to_string(owner.epoch) + ":" + std::to_string(owner.appended.size()) + ":";
      text.append(random_.below(300), static_cast<char>('a' + random_.below(26)));
      MemoryBlock body;
      if (random_.chance(0.03)) {
        const auto block = std::make_shared<const std::string>(Log::kept_bytes_min, 'B');
        body = {block, *block};
      }
      const LogPosition at = log.append(text, body);
      owner.appended.push_back({text + std::string(body.bytes), at.handle.segment, at.end});
      if (random_.chance(0.3)) wait(log, owner, at);
      if (random_.chance(0.05)) log.roll();
      if (random_.chance(0.05)) forget_old(log, owner, at);
      if (random_.chance(0.3)) sim_.pause();
    }
  }

  static void wait(Log& log, Owner& owner, const LogPosition& at) {
    log.wait_durable(at);
    owner.durable_end = std::max(owner.durable_end, at.end);
  }

  // As a driver does after a checkpoint, which need not wait for the log.
  void forget_old(Log& log, Owner& owner, const LogPosition& at) {
    if (random_.chance(0.5)) log.roll();
    const std::uint64_t segment = random_.chance(0.5) ? log.segment() : at.handle.segment;
    if (random_.chance(0.5)) wait(log, owner, at);
    // A checkpoint of an owner that has been fenced is not published.
    if (owner.epoch != owners_.back().epoch) return;
    from_segment_ = std::max(from_segment_, segment);
    log.remove_before(segment);
    coverage_.removals += log.segments_removed() > 0;
  }

  Simulation sim_;
  Random random_;
  Coverage& coverage_;
  std::deque<Owner> owners_;
  std::uint64_t from_segment_ = 0;
};

TEST(LogSimulation, WhatWasToldToBeDurableIsReadByEveryLaterOwner) {
  Coverage coverage;
  for (std::uint64_t seed = 1; seed <= seeds && !::testing::Test::HasFailure(); ++seed) History(seed, coverage).run();
  // That the faults were there, in so many of the seeds.
  EXPECT_GT(coverage.crashes, seeds);
  EXPECT_GT(coverage.takeovers, seeds / 4);
  EXPECT_GT(coverage.failures, seeds / 4);
  EXPECT_GT(coverage.torn, seeds / 20);
  EXPECT_GT(coverage.strays, seeds / 20);
  EXPECT_GT(coverage.removals, seeds / 4);
  EXPECT_GT(coverage.found, seeds * 20);
  EXPECT_GT(coverage.lost, seeds);
}

TEST(LogSimulation, ASeedRunTwiceGivesTheSameTrace) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Coverage coverage;
    History once(seed, coverage), again(seed, coverage);
    once.run();
    again.run();
    ASSERT_EQ(once.trace_hash(), again.trace_hash()) << seed;
  }
}

}  // namespace
}  // namespace sluice::detail
