#include "sluice/stream/checkpoint_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "sluice/core/hash.h"
#include "sluice/runtime/random.h"
#include "sluice/stream/framed.h"
#include "sluice/testkit/faulty_filesystem.h"
#include "sluice/testkit/simulation.h"
#include "sluice/testkit/thrown.h"

namespace sluice::detail {
namespace {

using namespace std::chrono_literals;
using testing::code_of;
using ::testing::ElementsAre;
using testing::error_of;
using testing::FaultyFileSystem;
using testing::FaultyRuntime;
using testing::FileOperation;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::SimulatedCrash;
using testing::Simulation;
using Texts = std::vector<std::string>;

Time at(std::int64_t second) { return Time(std::chrono::seconds(second)); }

class CheckpointDirectoryTest : public ::testing::Test {
 protected:
  void fiber(std::function<void()> body) { sim_.run(std::move(body)); }

  CheckpointDirectoryOptions options() const {
    CheckpointDirectoryOptions options;
    options.path = path_;
    options.app = "hits";
    options.hash_seed = 7;
    options.build = 1;
    options.interval = 1s;
    return options;
  }
  std::unique_ptr<CheckpointDirectory> open(std::function<void(CheckpointDirectoryOptions&)> change = {}) {
    CheckpointDirectoryOptions changed = options();
    if (change) change(changed);
    return std::make_unique<CheckpointDirectory>(runtime_, changed);
  }

  static Manifest manifest_of(Time time, std::uint64_t epoch) {
    Manifest manifest;
    manifest.time = time;
    manifest.epoch = epoch;
    manifest.interval = 1s;
    manifest.operators = {{"state", {"update_state_by_key", "text", "text"}, 1}};
    return manifest;
  }
  static void publish(CheckpointDirectory& directory, Time time, const std::string& what) {
    directory.checkpointer().begin(manifest_of(time, directory.epoch()), 0);
    directory.checkpointer().add(0, {{StateBlock::What::entries, 0, 0, what}});
    directory.checkpointer().end();
    directory.checkpointer().wait_idle();
  }
  /// A directory with checkpoints of the seconds 1 to `count`, all of them kept. Each has one block, "block N", of its
  /// own or, as deltas, those before too.
  void write_checkpoints(int count, bool as_deltas = false) {
    fiber([&] {
      for (int second = 1; second <= count; ++second) {
        const auto directory = open([](auto& it) { it.keep_batches = 100; });
        directory->begin_run(at(0), {}, {}, !as_deltas);
        publish(*directory, at(second), "block " + std::to_string(second));
      }
    });
  }
  static Texts read_state(CheckpointDirectory& directory) {
    Texts texts;
    while (!directory.read_state(
        [] {}, [&](const CheckpointOperator&, StateBlock&& block) { texts.push_back(block.bytes); })) {
      texts.clear();
      if (!directory.manifest().has_value()) {
        ADD_FAILURE() << "neither a checkpoint nor an error";
        break;
      }
    }
    return texts;
  }

  Texts names(std::string_view prefix) {
    Texts found;
    const auto listed = files_.list("/ckpt");
    for (const FileInfo& file : listed.value_or(std::vector<FileInfo>{})) {
      const std::string name = file.path.substr(file.path.find_last_of('/') + 1);
      if (name.starts_with(prefix)) found.push_back(name);
    }
    return found;
  }
  void damage(const std::string& name) {
    const std::string path = "/ckpt/" + name;
    std::string bytes = read_file(files_, path);
    bytes[bytes.size() / 2] ^= 1;
    files_.create(path)->append(bytes);
  }

  Simulation sim_{9};
  FaultyFileSystem files_{sim_.files()};
  FaultyRuntime runtime_{sim_, files_};
  std::string path_ = "/ckpt";
};

// ---- FORMAT

TEST_F(CheckpointDirectoryTest, SaysWhatItIs) {
  EXPECT_FALSE(read_checkpoint_format(files_, "/ckpt").has_value());
  fiber([&] { EXPECT_TRUE(open()->is_new()); });
  sim_.crash_disk();
  const auto format = read_checkpoint_format(files_, "/ckpt");
  ASSERT_TRUE(format.has_value());
  EXPECT_EQ(format->app, "hits");
  EXPECT_EQ(format->hash_seed, 7u);
  EXPECT_EQ(format->key_groups, key_groups);
}

TEST_F(CheckpointDirectoryTest, AnotherApplicationOrSeedIsRefused) {
  fiber([&] {
    open();
    const auto app = error_of([&] { open([](auto& it) { it.app = "misses"; }); });
    ASSERT_TRUE(app);
    EXPECT_EQ(app->code(), Code::other_checkpoint);
    EXPECT_THAT(app->details().why, HasSubstr("--sluice.app) was \"hits\" and is \"misses\""));
    const auto seed = error_of([&] { open([](auto& it) { it.hash_seed = 8; }); });
    ASSERT_TRUE(seed);
    EXPECT_EQ(seed->code(), Code::other_checkpoint);
    EXPECT_THAT(seed->details().why, HasSubstr("was 7 and is 8"));
    // Nobody was fenced by that.
    EXPECT_EQ(open()->epoch(), 2u);
  });
}

TEST_F(CheckpointDirectoryTest, OfTwoApplicationsThatBeginItAtOnceOneIsRefused) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    Simulation sim(seed);
    int refused = 0;
    sim.run([&] {
      std::vector<std::unique_ptr<Thread>> threads;
      for (const char* app : {"hits", "misses"}) {
        threads.push_back(sim.spawn("starter", [&, app] {
          CheckpointDirectoryOptions its = options();
          its.app = app;
          refused += code_of([&] { CheckpointDirectory(sim, its); }) == Code::other_checkpoint;
        }));
      }
      for (const auto& thread : threads) thread->join();
    });
    ASSERT_EQ(refused, 1) << seed;
  }
}

TEST_F(CheckpointDirectoryTest, ADamagedOrNewerFormatIsRefused) {
  fiber([&] { open(); });
  const std::string whole = read_file(files_, "/ckpt/FORMAT");
  const auto error_with = [&](const std::string& bytes) {
    files_.create("/ckpt/FORMAT")->append(bytes);
    std::optional<Error> error;
    fiber([&] { error = error_of([&] { open(); }); });
    EXPECT_THAT(error ? error->details().why : "no error", HasSubstr("/ckpt/FORMAT"));
    return error ? error->code() : Code::no_output;
  };
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const Code code = error_with(whole.substr(0, size));
    EXPECT_TRUE(code == Code::truncated_data || code == Code::corrupt_data);
  }
  for (std::size_t bit = 0; bit < whole.size() * 8; ++bit) {
    std::string flipped = whole;
    flipped[bit / 8] ^= static_cast<char>(1 << bit % 8);
    const Code code = error_with(flipped);
    EXPECT_TRUE(code == Code::truncated_data || code == Code::corrupt_data) << bit;
  }
  EXPECT_EQ(error_with(put_in_frame({0x44434c53, 2, "x"}, "anything")), Code::other_version);
  EXPECT_THAT(list_epochs(files_, "/ckpt"), ElementsAre(1u));
}

TEST_F(CheckpointDirectoryTest, ReadingAloneChangesNothing) {
  const auto reading = [](auto& it) { it.read_only = true; };
  fiber([&] { EXPECT_EQ(code_of([&] { open(reading); }), Code::not_readable); });
  EXPECT_EQ(files_.stat("/ckpt"), std::nullopt);
  write_checkpoints(2);
  const auto before = files_.list("/ckpt");
  fiber([&] {
    const auto directory = open(reading);
    EXPECT_EQ(read_state(*directory), Texts{"block 2"});
  });
  EXPECT_EQ(files_.list("/ckpt")->size(), before->size());
  EXPECT_THAT(list_epochs(files_, "/ckpt"), ElementsAre(1u, 2u));
}

// ---- Epochs

TEST_F(CheckpointDirectoryTest, EachRunFencesThoseBefore) {
  fiber([&] {
    const auto first = open();
    EXPECT_EQ(first->epoch(), 1u);
    EXPECT_FALSE(first->fenced());
    const auto second = open();
    EXPECT_EQ(second->epoch(), 2u);
    EXPECT_TRUE(first->fenced());
    EXPECT_FALSE(second->fenced());
  });
}

// Numbers are removed at some time; a run that has slept all the while is fenced nevertheless.
TEST_F(CheckpointDirectoryTest, ARunThatSleptWhileManyOthersRanIsFenced) {
  fiber([&] {
    std::vector<std::unique_ptr<CheckpointDirectory>> runs;
    for (std::uint64_t epoch = 1; epoch <= 60; ++epoch) {
      runs.push_back(open());
      EXPECT_EQ(runs.back()->epoch(), epoch);
      for (const auto& run : runs) EXPECT_EQ(run->fenced(), run != runs.back()) << run->epoch() << " at " << epoch;
    }
    EXPECT_EQ(list_epochs(files_, "/ckpt").size(), 16u);
  });
}

TEST_F(CheckpointDirectoryTest, OfManyThatTakeItAtOnceEachGetsANumberOfItsOwn) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Simulation sim(seed);
    std::set<std::uint64_t> taken;
    sim.run([&] {
      std::vector<std::unique_ptr<CheckpointDirectory>> runs(5);
      std::vector<std::unique_ptr<Thread>> threads;
      for (auto& run : runs) {
        threads.push_back(sim.spawn("starter", [&] { run = std::make_unique<CheckpointDirectory>(sim, options()); }));
      }
      for (const auto& thread : threads) thread->join();
      int alive = 0;
      for (const auto& run : runs) {
        taken.insert(run->epoch());
        alive += run->fenced() ? 0 : 1;
      }
      ASSERT_EQ(alive, 1);
    });
    ASSERT_EQ(taken, (std::set<std::uint64_t>{1, 2, 3, 4, 5})) << seed;
  }
}

TEST_F(CheckpointDirectoryTest, ANumberThatWasTakenIsNotTakenAgainAfterACrash) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    Simulation sim(seed);
    std::uint64_t last = 0;
    for (int life = 0; life < 20; ++life) {
      sim.crash_after(seed * 2 + 1);
      try {
        sim.run([&] {
          for (;;) {
            const CheckpointDirectory directory(sim, options());
            ASSERT_GT(directory.epoch(), last);
            last = directory.epoch();
            sim.pause();
          }
        });
      } catch (const SimulatedCrash&) {
        sim.crash_disk();
      }
      ASSERT_FALSE(HasFatalFailure()) << seed;
    }
  }
}

TEST_F(CheckpointDirectoryTest, OtherNamesAreNoNumbers) {
  fiber([&] {
    open();
    for (const char* name : {"x", "2", "0000000000", "0000000007.bak", "99999999999999999999", ".0000000009.tmp"}) {
      files_.create("/ckpt/epochs/" + std::string(name));
    }
    EXPECT_EQ(open()->epoch(), 2u);
  });
}

// ---- Checkpoints

TEST_F(CheckpointDirectoryTest, TheNewestCheckpointIsTaken) {
  write_checkpoints(3);
  fiber([&] {
    const auto directory = open();
    ASSERT_FALSE(directory->is_new());
    EXPECT_EQ(directory->manifest()->time, at(3));
    EXPECT_THAT(directory->damage(), IsEmpty());
    EXPECT_EQ(read_state(*directory), Texts{"block 3"});
  });
}

TEST_F(CheckpointDirectoryTest, AnOlderOneIsTakenWhenTheNewestIsDamaged) {
  for (const bool trailing_slash : {false, true}) {
    for (const char* part : {"checkpoint-", "state-"}) {
      SCOPED_TRACE(part);
      path_ = "/ckpt";
      fiber([&] { files_.remove_all("/ckpt"); });
      write_checkpoints(3);
      damage(names(part).back());
      if (trailing_slash) path_ += "/";
      fiber([&] {
        const auto directory = open();
        EXPECT_EQ(read_state(*directory), Texts{"block 2"});
        EXPECT_EQ(directory->manifest()->time, at(2));
        ASSERT_EQ(directory->damage().size(), 1u);
        EXPECT_THAT(directory->damage()[0], HasSubstr(names(part).back()));
      });
    }
  }
}

TEST_F(CheckpointDirectoryTest, AStateFileThatIsGoneIsDamage) {
  write_checkpoints(3);
  files_.remove("/ckpt/" + names("state-").back());
  fiber([&] { EXPECT_EQ(read_state(*open()), Texts{"block 2"}); });
}

TEST_F(CheckpointDirectoryTest, WithoutAnyThatCanBeReadItIsRefused) {
  for (const char* part : {"checkpoint-", "state-"}) {
    SCOPED_TRACE(part);
    fiber([&] { files_.remove_all("/ckpt"); });
    write_checkpoints(3);
    for (const std::string& name : names(part)) damage(name);
    std::optional<Error> error;
    fiber([&] { error = error_of([&] { read_state(*open()); }); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->code(), Code::no_readable_checkpoint);
    for (const std::string& name : names(part)) EXPECT_THAT(error->details().why, HasSubstr(name));
  }
}

// All of them share a base.
TEST_F(CheckpointDirectoryTest, ADamagedBaseIsTheEndOfAllThatNameIt) {
  write_checkpoints(3, true);
  fiber([&] { EXPECT_EQ(read_state(*open()), (Texts{"block 1", "block 2", "block 3"})); });
  damage(names("state-").front());
  fiber([&] { EXPECT_EQ(code_of([&] { read_state(*open()); }), Code::no_readable_checkpoint); });
}

TEST_F(CheckpointDirectoryTest, ADiskThatFailsIsNoDamage) {
  write_checkpoints(3);
  fiber([&] {
    for (const char* part : {"checkpoint-", "state-"}) {
      files_.fail({.operation = FileOperation::read_at, .path_part = part});
      EXPECT_EQ(code_of([&] { read_state(*open()); }), Code::io_failed) << part;
    }
    EXPECT_EQ(read_state(*open()), Texts{"block 3"});
  });
}

// A program whose types do not fit is told so, and not that the checkpoints are damaged.
TEST_F(CheckpointDirectoryTest, WhatTheProgramCannotTakeIsNoDamage) {
  write_checkpoints(3);
  fiber([&] {
    const auto directory = open();
    const auto refuse = [](const CheckpointOperator&, StateBlock&&) { throw Error(Code::state_does_not_fit, {}); };
    EXPECT_EQ(code_of([&] { directory->read_state([] {}, refuse); }), Code::state_does_not_fit);
    EXPECT_EQ(directory->manifest()->time, at(3));
    // A value that is none is damage, though its checksum fits.
    int calls = 0;
    const auto damaged = [&](const CheckpointOperator&, StateBlock&&) {
      if (++calls == 1) throw Error(Code::corrupt_data, {.why = "no such value"});
    };
    EXPECT_FALSE(directory->read_state([] {}, damaged));
    EXPECT_EQ(directory->manifest()->time, at(2));
    EXPECT_TRUE(directory->read_state([] {}, damaged));
  });
}

TEST_F(CheckpointDirectoryTest, ForAReplayAnOlderOneIsChosen) {
  write_checkpoints(4);
  fiber([&] {
    const auto directory = open([](auto& it) { it.read_only = true; });
    EXPECT_TRUE(directory->choose_manifest_before(at(3)));
    EXPECT_EQ(read_state(*directory), Texts{"block 2"});
    EXPECT_FALSE(directory->choose_manifest_before(at(1)));
  });
  // Never one that is too new, and never none.
  damage(names("state-")[1]);
  fiber([&] {
    const auto directory = open([](auto& it) { it.read_only = true; });
    EXPECT_TRUE(directory->choose_manifest_before(at(3)));
    EXPECT_EQ(read_state(*directory), Texts{"block 1"});
  });
  damage(names("state-")[0]);
  fiber([&] {
    const auto directory = open([](auto& it) { it.read_only = true; });
    EXPECT_TRUE(directory->choose_manifest_before(at(3)));
    EXPECT_EQ(code_of([&] { read_state(*directory); }), Code::no_readable_checkpoint);
  });
}

TEST_F(CheckpointDirectoryTest, ANewerCheckpointIsRefused) {
  write_checkpoints(2);
  files_.create("/ckpt/" + manifest_name(at(3), 3))->append(put_in_frame({0x4d434c53, 3, "x"}, "anything"));
  fiber([&] { EXPECT_EQ(code_of([&] { open(); }), Code::other_version); });
}

TEST_F(CheckpointDirectoryTest, BatchesWithoutACheckpointAreRefused) {
  fiber([&] {
    const auto directory = open();
    directory->begin_run(at(0), {"in"}, {"out"}, false);
    directory->journal().batch(at(1), {"x"}, {{}});
    directory->wait_durable();
  });
  std::optional<Error> error;
  fiber([&] { error = error_of([&] { open(); }); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), Code::no_readable_checkpoint);
  EXPECT_THAT(error->details().why, HasSubstr("tells of batches"));
}

// ---- Blocks of receivers

TEST_F(CheckpointDirectoryTest, BlocksAreReadBackByTheNextRun) {
  const auto bytes = std::make_shared<const std::string>("the bytes of a block");
  fiber([&] {
    const auto directory = open();
    directory->begin_run(at(0), {"in"}, {"out"}, false);
    publish(*directory, at(0), "");
    EXPECT_EQ(directory->first_block_number(), std::uint64_t{1} << 40);
    const auto recorder = directory->recorder(0);
    RecordedBlock block;
    block.number = directory->first_block_number() + 1;
    block.bytes = bytes->size();
    block.records = 3;
    block.stored = at(1);
    block.position = "position 1";
    recorder->wait_durable(recorder->record(block, {bytes, *bytes}).place);
  });
  sim_.crash_disk();
  fiber([&] {
    const auto directory = open();
    EXPECT_EQ(directory->first_block_number(), std::uint64_t{2} << 40);
    const auto& blocks = directory->journal_content().blocks.at("in");
    ASSERT_EQ(blocks.size(), 1u);
    const RecordedBlock& block = blocks.begin()->second;
    EXPECT_EQ(block.records, 3u);
    EXPECT_EQ(block.position, "position 1");
    EXPECT_EQ(directory->journal_content().receivers.at("in").position, "position 1");
    ASSERT_TRUE(block.handle.has_value());
    EXPECT_EQ(read_log_record(files_, directory->wal_path(), *block.handle), *bytes);
  });
}

TEST_F(CheckpointDirectoryTest, WithoutAWriteAheadLogThereIsNoRecorder) {
  fiber([&] {
    const auto directory = open([](auto& it) { it.wal = false; });
    directory->begin_run(at(0), {"in"}, {"out"}, false);
    EXPECT_EQ(directory->recorder(0), nullptr);
  });
}

// A directory that is used run after run does not grow.
TEST_F(CheckpointDirectoryTest, WhatNoCheckpointNeedsIsRemoved) {
  std::size_t most = 0;
  const auto block_bytes = std::make_shared<const std::string>(std::string(100, 'x'));
  for (int run = 0; run < 30; ++run) {
    fiber([&] {
      const auto directory = open();
      const Time last = directory->is_new() ? at(0) : directory->manifest()->time;
      directory->begin_run(at(0), {"in"}, {"out"}, false);
      const auto recorder = directory->recorder(0);
      std::uint64_t number = directory->first_block_number();
      for (int i = 1; i <= 4; ++i) {
        const Time time = last + i * 1s;
        RecordedBlock block;
        block.number = ++number;
        block.stored = time;
        recorder->record(block, {block_bytes, *block_bytes});
        directory->journal().batch(time, {"x"}, {{number}});
        directory->journal().output(time, 0, true, {});
        directory->journal().complete(time);
        publish(*directory, time, std::string(2, '\0'));  // nothing gone, nothing put
        directory->clean({});
        sim_.wait_for(1s);
      }
    });
    std::size_t files = 0;
    for (const char* folder : {"/ckpt", "/ckpt/journal", "/ckpt/wal", "/ckpt/epochs"})
      files += files_.list(folder)->size();
    // Chains grow until they are merged.
    if (run < 20) most = std::max(most, files);
    EXPECT_TRUE(run < 20 || files <= most + 1) << files << " after " << most << " in run " << run;
  }
}

}  // namespace
}  // namespace sluice::detail
