#include "sluice/stream/checkpointer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "sluice/core/codec.h"
#include "sluice/runtime/kill_point.h"
#include "sluice/runtime/random.h"
#include "sluice/stream/state_chain.h"
#include "sluice/testkit/faulty_filesystem.h"
#include "sluice/testkit/simulation.h"
#include "sluice/testkit/thrown.h"

namespace sluice::detail {
namespace {

using namespace std::chrono_literals;
using testing::code_of;
using ::testing::ElementsAre;
using testing::FaultyFileSystem;
using testing::FaultyRuntime;
using testing::FileFault;
using testing::FileOperation;
using ::testing::IsEmpty;
using testing::SimulatedCrash;
using testing::Simulation;
using testing::SimulationOptions;
using Names = std::vector<std::string>;

const std::string directory = "/ckpt";
const std::string journal_directory = "/ckpt/journal";

Time at(std::int64_t second) { return Time(std::chrono::seconds(second)); }

/// Keys and what they have, as of a batch.
using Content = std::map<std::string, std::string>;

/// State that changes by chance, and what a checkpoint is told of it.
class Changing {
 public:
  explicit Changing(Content content = {}) : content_(std::move(content)) {}

  const Content& content() const { return content_; }
  /// Changes some keys; blocks of what has changed.
  std::vector<StateBlock> change(Random& random, std::uint64_t bytes_max = 40) {
    struct Group {
      std::vector<std::string> gone;
      Content puts;
    };
    std::map<std::uint32_t, Group> groups;
    for (std::uint64_t n = random.below(20); n > 0; --n) {
      const std::uint64_t number = random.below(50);
      std::string key = "key " + std::to_string(number);
      Group& group = groups[static_cast<std::uint32_t>(number % 7)];
      group.puts.erase(key);
      if (random.chance(0.3)) {
        content_.erase(key);
        group.gone.push_back(std::move(key));
      } else {
        std::string value(random.below(bytes_max), static_cast<char>('a' + random.below(26)));
        content_[key] = value;
        group.puts[std::move(key)] = std::move(value);
      }
    }
    std::vector<StateBlock> blocks;
    for (const auto& [number, group] : groups) {
      Encoder out;
      encode(group.gone, out);
      out.varint(group.puts.size());
      for (const auto& [key, value] : group.puts) {
        out.text(key);
        out.text(value);
      }
      blocks.push_back({StateBlock::What::entries, number, 0, out.take()});
    }
    return blocks;
  }

 private:
  Content content_;
};

Manifest manifest_of(Time time, std::uint64_t epoch) {
  Manifest manifest;
  manifest.time = time;
  manifest.epoch = epoch;
  manifest.interval = 1s;
  manifest.operators = {{"state", {"update_state_by_key", "text", "text"}, 1}};
  return manifest;
}

/// What a checkpoint has. Errors: those of reading it.
Content content_of(FileSystem& files, const Manifest& manifest) {
  Content content;
  StateChain chain(files, directory, manifest);
  for (const auto& [number, blocks] : chain.groups(0)) {
    chain.read_group(0, blocks).for_each(
        [&](std::string_view key, std::string_view value) { content.emplace(key, value); });
  }
  return content;
}

Names names(FileSystem& files, std::string_view prefix) {
  Names found;
  const auto listed = files.list(directory);
  for (const FileInfo& file : listed.value_or(std::vector<FileInfo>{})) {
    const std::string name = file.path.substr(directory.size() + 1);
    if (name.starts_with(prefix) && !file.is_directory) found.push_back(name);
  }
  return found;
}

class CheckpointerTest : public ::testing::Test {
 protected:
  CheckpointerTest() { files_.make_directories(directory); }

  void fiber(std::function<void()> body) { sim_.run(std::move(body)); }
  Log new_log() { return Log(runtime_, journal_directory, {}, {}); }

  /// A whole checkpoint of second `second`; returns when it is published.
  void checkpoint(Checkpointer& checkpointer, std::int64_t second, std::uint64_t bytes_max = 40) {
    checkpointer.begin(manifest_of(at(second), 1), 0);
    checkpointer.add(0, state_.change(random_, bytes_max));
    model_[at(second)] = state_.content();
    checkpointer.end();
    checkpointer.wait_idle();
  }

  void expect_whole(const std::string& path) {
    const Manifest manifest = read_manifest(sim_.files(), path);
    EXPECT_TRUE(content_of(sim_.files(), manifest) == model_.at(manifest.time)) << path;
  }

  Simulation sim_{5};
  FaultyFileSystem files_{sim_.files()};
  FaultyRuntime runtime_{sim_, files_};
  Random random_{6};
  Changing state_;
  std::map<Time, Content> model_;
};

TEST_F(CheckpointerTest, PublishesABaseAndWhatHasChangedSince) {
  fiber([&] {
    Log log = new_log();
    Checkpointer checkpointer(runtime_, log, {.directory = directory, .epoch = 1});
    EXPECT_TRUE(checkpointer.idle());
    EXPECT_EQ(checkpointer.oldest_kept(), std::nullopt);
    for (int second = 1; second <= 3; ++second) checkpoint(checkpointer, second);
    EXPECT_TRUE(checkpointer.idle());
    EXPECT_EQ(checkpointer.pending_bytes(), 0u);
    EXPECT_EQ(checkpointer.oldest_kept(), at(2));
  });
  sim_.crash_disk();
  EXPECT_THAT(names(files_, "checkpoint-"),
              ElementsAre("checkpoint-000000000002000-000001", "checkpoint-000000000003000-000001"));
  EXPECT_THAT(names(files_, "state-"),
              ElementsAre("state-000000000001000-000001-0001.base", "state-000000000002000-000001-0002.delta",
                          "state-000000000003000-000001-0003.delta"));
  for (const std::string& path : list_manifests(files_, directory)) expect_whole(path);
}

TEST_F(CheckpointerTest, GoesOnWithAChainOrBeginsOne) {
  fiber([&] {
    Log log = new_log();
    {
      Checkpointer first(runtime_, log, {.directory = directory, .epoch = 1});
      checkpoint(first, 1);
    }
    const std::vector<StateFileInfo> chain = read_manifest(files_, list_manifests(files_, directory)[0]).chain;
    {
      Checkpointer second(runtime_, log, {.directory = directory, .epoch = 1, .chain = chain});
      checkpoint(second, 2);
    }
    Checkpointer third(runtime_, log, {.directory = directory, .epoch = 1});
    third.begin(manifest_of(at(3), 1), 0);
    Changing whole;
    third.add(0, whole.change(random_));
    model_[at(3)] = whole.content();
    third.end();
    third.wait_idle();
  });
  const Names manifests = list_manifests(files_, directory);
  ASSERT_EQ(manifests.size(), 2u);
  for (const std::string& path : manifests) expect_whole(path);
  EXPECT_EQ(read_manifest(files_, manifests[0]).chain.size(), 1u);
  EXPECT_EQ(read_manifest(files_, manifests[1]).chain.size(), 2u);
}

// C1.
TEST_F(CheckpointerTest, WaitsForTheJournal) {
  fiber([&] {
    Log log = new_log();
    bool durable = false;
    set_kill_point_hook([&](std::string_view place) {
      if (place == "log.after_sync") durable = true;
      EXPECT_TRUE(durable || place != "checkpoint.before_manifest");
    });
    Checkpointer checkpointer(runtime_, log, {.directory = directory, .epoch = 1});
    for (int i = 0; i < 100; ++i) log.append("a record");
    checkpointer.begin(manifest_of(at(1), 1), log.append("complete").end);
    checkpointer.end();
    checkpointer.wait_idle();
    EXPECT_TRUE(durable);
    set_kill_point_hook({});
  });
  EXPECT_EQ(list_manifests(files_, directory).size(), 1u);
}

TEST_F(CheckpointerTest, DropsWhatIsNotPublishedAtItsEnd) {
  fiber([&] {
    Log log = new_log();
    Checkpointer checkpointer(runtime_, log, {.directory = directory, .epoch = 1});
    checkpoint(checkpointer, 1);
    checkpointer.begin(manifest_of(at(2), 1), 0);
    checkpointer.add(0, state_.change(random_));
    EXPECT_FALSE(checkpointer.idle());
    sim_.wait_for(1h);
    EXPECT_TRUE(checkpointer.idle());
  });
  EXPECT_THAT(names(files_, "checkpoint-"), ElementsAre("checkpoint-000000000001000-000001"));
  EXPECT_THAT(names(files_, ".state-"), IsEmpty());
}

TEST_F(CheckpointerTest, AFencedOnePublishesNothing) {
  fiber([&] {
    Log log = new_log();
    bool fenced = false;
    Checkpointer checkpointer(runtime_, log, {.directory = directory, .epoch = 1, .fenced = [&] { return fenced; }});
    checkpoint(checkpointer, 1);
    fenced = true;
    EXPECT_EQ(code_of([&] { checkpoint(checkpointer, 2); }), Code::fenced);
    EXPECT_EQ(code_of([&] { checkpointer.check(); }), Code::fenced);
    // Nothing happens any more.
    fenced = false;
    EXPECT_EQ(code_of([&] { checkpoint(checkpointer, 3); }), Code::fenced);
  });
  EXPECT_THAT(names(files_, "checkpoint-"), ElementsAre("checkpoint-000000000001000-000001"));
}

TEST_F(CheckpointerTest, MergesWhenDeltasOutweighTheBase) {
  fiber([&] {
    Log log = new_log();
    Checkpointer checkpointer(runtime_, log, {.directory = directory, .epoch = 1});
    std::size_t longest = 0;
    std::set<std::string> bases;
    for (int second = 1; second <= 60; ++second) {
      // Small ones until the chain is too long, then large ones.
      checkpoint(checkpointer, second, second < 40 ? 40 : 300'000);
      const Names manifests = list_manifests(files_, directory);
      for (const std::string& path : manifests) expect_whole(path);
      const Manifest newest = read_manifest(files_, manifests[0]);
      longest = std::max(longest, newest.chain.size());
      bases.insert(newest.chain[0].name);
      std::uint64_t deltas = 0;
      for (std::size_t i = 1; i < newest.chain.size(); ++i) deltas += newest.chain[i].bytes;
      // At most what one checkpoint has more.
      EXPECT_LE(deltas, std::max<std::uint64_t>(newest.chain[0].bytes, 1 << 20) + 20 * 300'000);
    }
    EXPECT_EQ(longest, 16u);
    EXPECT_GT(bases.size(), 4u);
  });
}

// Which checkpoints stay, and of all other files those that they name.
TEST_F(CheckpointerTest, KeepsTwoCheckpointsAndThoseThatReachBackFarEnough) {
  for (const std::int64_t keep : {0, 1, 5, 12}) {
    SCOPED_TRACE(keep);
    fiber([&] {
      files_.remove_all(directory);
      files_.make_directories(directory);
      state_ = Changing();
      Log log = new_log();
      Checkpointer checkpointer(runtime_, log,
                                {.directory = directory, .epoch = 1, .keep = std::chrono::seconds(keep)});
      std::vector<std::int64_t> taken;
      for (std::int64_t second = 1; taken.size() < 40; second += 1 + static_cast<std::int64_t>(random_.below(4))) {
        taken.push_back(second);
        checkpoint(checkpointer, second);
        std::set<std::string> expected;
        std::int64_t oldest = second;
        for (auto it = taken.rbegin(); it != taken.rend(); ++it) {
          const bool newest_two = it - taken.rbegin() < 2;
          if (!newest_two && oldest <= second - keep) break;
          expected.insert(manifest_name(at(*it), 1));
          oldest = *it;
        }
        const Names left = names(files_, "checkpoint-");
        ASSERT_EQ(std::set<std::string>(left.begin(), left.end()), expected);
        ASSERT_EQ(checkpointer.oldest_kept(), at(oldest));
        std::set<std::string> named;
        for (const std::string& path : list_manifests(files_, directory)) {
          expect_whole(path);
          for (const StateFileInfo& file : read_manifest(files_, path).chain) named.insert(file.name);
        }
        const Names states = names(files_, "state-");
        const std::set<std::string> there(states.begin(), states.end());
        ASSERT_TRUE(std::includes(there.begin(), there.end(), named.begin(), named.end()));
        // A chain that has been merged, for the next one.
        ASSERT_LE(there.size(), named.size() + 1);
      }
    });
  }
}

TEST_F(CheckpointerTest, RemovesWhatEarlierRunsHaveLeft) {
  for (const char* name : {".state-x.tmp", ".checkpoint-x.0.tmp", "state-000000000000000-000000-0001.base"}) {
    files_.create(directory + "/" + std::string(name));
  }
  for (const char* name : {"FORMAT", "notes.txt", ".hidden"}) files_.create(directory + "/" + std::string(name));
  fiber([&] {
    Log log = new_log();
    Checkpointer checkpointer(runtime_, log, {.directory = directory, .epoch = 1});
    checkpoint(checkpointer, 1);
  });
  EXPECT_THAT(names(files_, ""), ElementsAre(".hidden", "FORMAT", "checkpoint-000000000001000-000001", "notes.txt",
                                             "state-000000000001000-000001-0001.base"));
}

TEST_F(CheckpointerTest, ADamagedManifestStaysForAWhileAndIsNoCheckpoint) {
  fiber([&] {
    Log log = new_log();
    Checkpointer checkpointer(runtime_, log, {.directory = directory, .epoch = 1});
    checkpoint(checkpointer, 1);
    checkpoint(checkpointer, 2);
    files_.create(directory + "/" + manifest_name(at(2), 1))->append(std::string("damaged"));
    checkpoint(checkpointer, 3);
    EXPECT_THAT(names(files_, "checkpoint-"),
                ElementsAre(manifest_name(at(1), 1), manifest_name(at(2), 1), manifest_name(at(3), 1)));
    EXPECT_EQ(checkpointer.oldest_kept(), at(1));
    expect_whole(directory + "/" + manifest_name(at(1), 1));
    expect_whole(directory + "/" + manifest_name(at(3), 1));
    checkpoint(checkpointer, 4);
    EXPECT_THAT(names(files_, "checkpoint-"), ElementsAre(manifest_name(at(3), 1), manifest_name(at(4), 1)));
  });
}

// ---- Failures

// C2: the disk may answer again.
TEST_F(CheckpointerTest, FilesOfAManifestThatCannotBeReadNowStay) {
  fiber([&] {
    Log log = new_log();
    {
      Checkpointer first(runtime_, log, {.directory = directory, .epoch = 1});
      checkpoint(first, 1);
    }
    state_ = Changing();
    Checkpointer second(runtime_, log, {.directory = directory, .epoch = 1});
    files_.fail({.operation = FileOperation::read_at, .path_part = manifest_name(at(1), 1)});
    EXPECT_EQ(code_of([&] { checkpoint(second, 2); }), Code::io_failed);
  });
  expect_whole(directory + "/" + manifest_name(at(1), 1));
  expect_whole(directory + "/" + manifest_name(at(2), 1));
}

// Each operation on a file fails once, in each of the ways there are: it is told, and what was published before is
// whole.
TEST_F(CheckpointerTest, AFailureIsToldAndSpoilsNothing) {
  using enum FileOperation;
  // With merges and removals, as often as they are called.
  const std::map<FileOperation, int> steps = {{open, 99}, {create, 99},  {rename, 99}, {remove, 99},
                                              {list, 99}, {read_at, 99}, {append, 99}};
  std::map<FileOperation, int> reached;
  for (const auto& [operation, count] : steps) {
    for (int nth = 1; nth <= count; ++nth) {
      for (const FileFault fault : {FileFault::disk_full, FileFault::io_error, FileFault::short_write}) {
        SCOPED_TRACE(static_cast<int>(operation) * 1000 + nth * 10 + static_cast<int>(fault));
        Simulation sim(static_cast<std::uint64_t>(nth));
        FaultyFileSystem files(sim.files());
        FaultyRuntime runtime(sim, files);
        files.make_directories(directory);
        std::optional<Code> code;
        std::map<Time, Content> model;
        std::int64_t published = 0;
        sim.run([&] {
          Log log(runtime, journal_directory, {}, {});
          Checkpointer checkpointer(runtime, log, {.directory = directory, .epoch = 1});
          files.fail(
              {.operation = operation, .path_part = "/ckpt", .nth = static_cast<std::uint64_t>(nth), .fault = fault});
          Changing state;
          Random random(1);
          for (std::int64_t second = 1; second <= 18 && !code; ++second) {
            checkpointer.begin(manifest_of(at(second), 1), 0);
            checkpointer.add(0, state.change(random));
            model[at(second)] = state.content();
            checkpointer.end();
            code = code_of([&] { checkpointer.wait_idle(); });
            if (!code) published = second;
          }
        });
        if (!code && files.failures() == 0) {
          nth = count;  // there are no more
          break;
        }
        ++reached[operation];
        // A temporary that cannot be removed does no harm, and is all that is not told.
        if (!code) {
          EXPECT_EQ(operation, remove);
          continue;
        }
        EXPECT_EQ(code, Code::io_failed);
        sim.crash_disk();
        const Names manifests = list_manifests(sim.files(), directory);
        if (published == 0 && manifests.empty()) continue;
        ASSERT_FALSE(manifests.empty());
        const Manifest newest = read_manifest(sim.files(), manifests[0]);
        EXPECT_GE(newest.time, at(published));
        EXPECT_TRUE(content_of(sim.files(), newest) == model.at(newest.time));
      }
    }
  }
  for (const auto& [operation, count] : steps) EXPECT_GT(reached[operation], 3) << static_cast<int>(operation);
}

TEST_F(CheckpointerTest, AJournalThatHasFailedIsTold) {
  fiber([&] {
    Log log = new_log();
    Checkpointer checkpointer(runtime_, log, {.directory = directory, .epoch = 1});
    files_.fail({.operation = FileOperation::append, .path_part = "journal", .fault = FileFault::disk_full});
    checkpointer.begin(manifest_of(at(1), 1), log.append("complete").end);
    checkpointer.end();
    EXPECT_EQ(code_of([&] { checkpointer.wait_idle(); }), Code::io_failed);
  });
  EXPECT_THAT(list_manifests(files_, directory), IsEmpty());
}

// ---- Under crashes

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint64_t seeds = 60;
#else
constexpr std::uint64_t seeds = 400;
#endif

/// What all histories together have come across.
struct Coverage {
  std::uint64_t crashes = 0;
  std::uint64_t merges = 0;
  std::uint64_t resumed = 0;
  std::uint64_t unpublished = 0;
};

/// One disk and the runs on it, one after the other, each killed at any step.
class History {
 public:
  History(std::uint64_t seed, Coverage& coverage) : sim_(seed, options_of(seed)), random_(seed), coverage_(coverage) {}

  void run() {
    sim_.files().make_directories(directory);
    sim_.files().sync_directory("/");
    for (std::uint64_t lives = 2 + random_.below(5); lives > 0; --lives) {
      sim_.crash_after(1 + random_.below(random_.chance(0.5) ? 100 : 2'000));
      ++epoch_;
      try {
        sim_.run([&] { live(); });
      } catch (const SimulatedCrash&) {
        ++coverage_.crashes;
      }
      if (random_.chance(0.5)) sim_.crash_disk();
      ASSERT_NO_FATAL_FAILURE(look());
    }
  }

 private:
  static SimulationOptions options_of(std::uint64_t seed) {
    SimulationOptions options;
    if (seed % 4 == 1) options.write_failure = 0.01;
    return options;
  }

  void live() {
    // Of a run that has been killed nothing is in use any more.
    Log log(sim_, journal_directory + std::to_string(epoch_), {}, {});
    Checkpointer checkpointer(sim_, log, {.directory = directory, .epoch = epoch_, .chain = chain_});
    Changing state(content_);
    try {
      for (std::uint64_t left = random_.below(25); left > 0; --left) {
        ++second_;
        checkpointer.begin(manifest_of(at(second_), epoch_), log.append("complete").end);
        std::vector<StateBlock> blocks = state.change(random_);
        model_[{at(second_), epoch_}] = state.content();
        while (!blocks.empty()) {
          checkpointer.add(0, {std::move(blocks.back())});
          blocks.pop_back();
          if (random_.chance(0.2)) sim_.pause();
        }
        checkpointer.end();
        checkpointer.wait_idle();
        published_ = at(second_);
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::io_failed) << error.what();
    }
  }

  // As the next run does.
  void look() {
    SCOPED_TRACE("seed " + std::to_string(sim_.seed()) + ", epoch " + std::to_string(epoch_));
    const Names manifests = list_manifests(sim_.files(), directory);
    if (published_ == Time{} && manifests.empty()) return;
    ASSERT_FALSE(manifests.empty());
    const Manifest newest = read_manifest(sim_.files(), manifests[0]);
    ASSERT_GE(newest.time, published_);
    coverage_.unpublished += newest.time > published_;
    coverage_.merges += newest.chain[0].name.find(manifest_name(newest.time, 0).substr(11, 15)) == std::string::npos;
    coverage_.resumed += newest.epoch < epoch_;
    content_ = content_of(sim_.files(), newest);
    ASSERT_TRUE(content_ == model_.at({newest.time, newest.epoch}));
    chain_ = newest.chain;
    published_ = newest.time;
    second_ = newest.time.time_since_epoch() / 1s;
  }

  Simulation sim_;
  Random random_;
  Coverage& coverage_;
  std::uint64_t epoch_ = 0;
  std::int64_t second_ = 0;
  Time published_{};
  std::vector<StateFileInfo> chain_;
  Content content_;
  std::map<std::pair<Time, std::uint64_t>, Content> model_;
};

TEST(CheckpointerSimulation, WhateverCrashTheNewestCheckpointIsWhole) {
  Coverage coverage;
  for (std::uint64_t seed = 1; seed <= seeds && !::testing::Test::HasFailure(); ++seed) History(seed, coverage).run();
  EXPECT_GT(coverage.crashes, seeds);
  EXPECT_GT(coverage.merges, seeds / 4);
  EXPECT_GT(coverage.resumed, seeds / 4);
  EXPECT_GT(coverage.unpublished, seeds / 10);
}

}  // namespace
}  // namespace sluice::detail
