#include "sluice/stream/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "sluice/core/codec.h"
#include "sluice/runtime/checksum.h"
#include "sluice/runtime/random.h"
#include "sluice/testkit/simulation.h"
#include "sluice/testkit/thrown.h"

namespace sluice::detail {
namespace {

using namespace std::chrono_literals;
using testing::code_of;
using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using testing::Simulation;

const std::string directory = "/ckpt";

Time at(std::int64_t milliseconds) { return Time(std::chrono::milliseconds(milliseconds)); }

StateSchema schema_of_counts() { return {"update_state_by_key", "text", "i64", 0, 8, 0, Duration(1s).count()}; }
StateSchema schema_of_window() {
  return {"window", "i64", "pair<i64,u32>", 8, 0, Duration(3s).count(), Duration(1s).count()};
}

/// What a block of a file is, for comparing.
struct Read {
  std::string name;
  StateSchema schema;
  StateBlock::What what;
  std::uint32_t group;
  std::int64_t batch;
  std::string bytes;
  friend bool operator==(const Read&, const Read&) = default;
};

/// A directory on the disk of a simulation.
class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() { files_.make_directories(directory); }

  static Manifest manifest_of(Time time, std::uint64_t epoch) {
    Manifest manifest;
    manifest.time = time;
    manifest.epoch = epoch;
    manifest.build = 0xfeedfacecafebeefULL;
    manifest.app = "hits";
    manifest.zero = at(1'000);
    manifest.interval = 500ms;
    manifest.hash_seed = 42;
    manifest.operators = {{"counts", schema_of_counts(), 4}, {"hits-3s", schema_of_window(), 2}};
    manifest.inputs = {{"socket_text_stream localhost:7777", ""}, {"lines", std::string("\0\1\xff", 3)}};
    manifest.chain = {{"state-1.base", 1'000'000'000'000, 7, true}, {"state-2.delta", 13, 0, false}};
    return manifest;
  }

  std::vector<Read> read_file_of(const StateFileInfo& info) {
    std::vector<Read> all;
    read_state_file(files_, directory, info, [&](const CheckpointOperator& from, StateBlock&& block) {
      all.push_back({from.name, from.schema, block.what, block.group, block.batch, std::move(block.bytes)});
    });
    return all;
  }

  /// A file of `count` blocks of up to `bytes_max`.
  StateFileInfo write_blocks(const std::string& name, std::uint64_t count, std::uint64_t bytes_max,
                             std::vector<Read>* written = nullptr) {
    const std::vector<CheckpointOperator> operators = {{"counts", schema_of_counts(), 4},
                                                       {"hits-3s", schema_of_window(), 2}};
    StateFileWriter out(files_, directory, name, true, operators);
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto index = static_cast<std::uint32_t>(random_.below(2));
      StateBlock block;
      if (index == 1 && random_.chance(0.5)) {
        block.what = StateBlock::What::log;
        block.batch = static_cast<std::int64_t>(random_.next());
      }
      block.group = static_cast<std::uint32_t>(random_.below(1024));
      for (std::uint64_t left = random_.below(bytes_max + 1); left > 0; --left) {
        block.bytes += static_cast<char>(random_.below(256));
      }
      out.add(index, block);
      if (written != nullptr) {
        written->push_back(
            {operators[index].name, operators[index].schema, block.what, block.group, block.batch, block.bytes});
      }
    }
    return out.finish();
  }

  /// A file as it would be written by anyone: `body` in a frame after the head.
  void put(const std::string& name, std::string_view magic, std::uint8_t version, std::string_view body,
           std::string_view more = {}) {
    Encoder head;
    head.bytes(magic);
    head.u8(version);
    Encoder all;
    all.bytes(head.view());
    all.u32(static_cast<std::uint32_t>(body.size()));
    all.u32(crc32c(body, crc32c(head.view())));
    all.bytes(body);
    all.bytes(more);
    files_.create(directory + "/" + name)->append(all.view());
  }
  void put(const std::string& name, std::string_view bytes) { files_.create(directory + "/" + name)->append(bytes); }

  /// Reads what `bytes` make of the file `name`: damage, or what `read` compares.
  void expect_damage_or(const std::string& name, std::string_view bytes, const std::function<void()>& read) {
    put(name, bytes);
    if (const auto error = error_of(read)) {
      EXPECT_TRUE(is_damage(*error)) << error->what();
      EXPECT_THAT(error->details().why, HasSubstr(directory + "/" + name));
      ++detected_;
    }
  }

  Simulation sim_{11};
  FileSystem& files_ = sim_.files();
  Random random_{12};
  std::uint64_t flips_ = 0;
  std::uint64_t detected_ = 0;
};

// ---- Manifests

TEST_F(CheckpointTest, AManifestIsReadAsItWasWritten) {
  Manifest manifest = manifest_of(at(61'000), 3);
  write_manifest(files_, directory, manifest);
  sim_.crash_disk();
  EXPECT_EQ(read_manifest(files_, directory + "/checkpoint-000000000061000-000003") == manifest, true);
  manifest = {};
  write_manifest(files_, directory, manifest);
  EXPECT_EQ(read_manifest(files_, directory + "/" + manifest_name({}, 0)) == manifest, true);
}

TEST_F(CheckpointTest, ManifestsAreListedNewestFirst) {
  // The last ones have more digits than names are filled up to.
  const std::vector<std::pair<std::int64_t, std::uint64_t>> ids = {{0, 1},
                                                                   {1'500, 1},
                                                                   {1'500, 2},
                                                                   {20'000, 1},
                                                                   {1'700'000'000'000, 999'999},
                                                                   {1'700'000'000'000, 1'000'000},
                                                                   {9'000'000'000'000, 1}};
  std::vector<std::string> expected;
  for (const auto& [milliseconds, epoch] : ids) {
    write_manifest(files_, directory, manifest_of(at(milliseconds), epoch));
    expected.insert(expected.begin(), directory + "/" + manifest_name(at(milliseconds), epoch));
  }
  EXPECT_EQ(list_manifests(files_, directory), expected);
  EXPECT_THAT(list_manifests(files_, "/none"), ElementsAre());
}

TEST_F(CheckpointTest, OtherFilesAreNoManifests) {
  for (const char* name : {"checkpoint-", "checkpoint-1-1", "checkpoint-000000000061000-000003.bak", "checkpoint-x-y",
                           ".checkpoint-000000000061000-000003.1.tmp", "FORMAT", "checkpoint", "-", "checkpoint--",
                           "checkpoint-000000000061000", "checkpoint-99999999999999999999-000001"}) {
    put(name, "x");
  }
  files_.make_directories(directory + "/checkpoint-000000000061000-000003");
  EXPECT_THAT(list_manifests(files_, directory), ElementsAre());
}

TEST_F(CheckpointTest, AManifestUnderAnotherNameIsDamage) {
  write_manifest(files_, directory, manifest_of(at(61'000), 3));
  files_.rename(directory + "/checkpoint-000000000061000-000003", directory + "/checkpoint-000000000061000-000004");
  const auto error = error_of([&] { read_manifest(files_, directory + "/checkpoint-000000000061000-000004"); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), Code::corrupt_data);
  EXPECT_THAT(error->details().why, HasSubstr("checkpoint-000000000061000-000003"));
}

TEST_F(CheckpointTest, OfRandomBitFlipsInAManifestNoneIsOverlooked) {
  const Manifest manifest = manifest_of(at(61'000), 3);
  write_manifest(files_, directory, manifest);
  const std::string name = manifest_name(manifest.time, manifest.epoch);
  const std::string whole = read_file(files_, directory + "/" + name);
  for (int i = 0; i < 10'000; ++i) {
    std::string flipped = whole;
    for (std::uint64_t flips = 1 + random_.below(3); flips > 0; --flips) {
      flipped[random_.below(flipped.size())] ^= static_cast<char>(1 << random_.below(8));
    }
    if (flipped == whole) continue;
    expect_damage_or(name, flipped,
                     [&] { EXPECT_EQ(read_manifest(files_, directory + "/" + name) == manifest, true); });
    ++flips_;
  }
  EXPECT_EQ(detected_, flips_);
}

TEST_F(CheckpointTest, AManifestCutAnywhereIsDamage) {
  const Manifest manifest = manifest_of(at(61'000), 3);
  write_manifest(files_, directory, manifest);
  const std::string name = manifest_name(manifest.time, manifest.epoch);
  const std::string whole = read_file(files_, directory + "/" + name);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    expect_damage_or(name, whole.substr(0, size), [&] { read_manifest(files_, directory + "/" + name); });
  }
  EXPECT_EQ(detected_, whole.size());
  expect_damage_or(name, whole + 'x', [&] { read_manifest(files_, directory + "/" + name); });
  EXPECT_EQ(detected_, whole.size() + 1);
}

TEST_F(CheckpointTest, ANewerManifestIsRefused) {
  put("checkpoint-000000000000001-000001", "SLCM", 3, "anything at all");
  const auto error = error_of([&] { read_manifest(files_, directory + "/checkpoint-000000000000001-000001"); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), Code::other_version);
  EXPECT_THAT(error->details().why,
              HasSubstr("checkpoint-000000000000001-000001: this is a checkpoint of version 3; "));
  EXPECT_FALSE(is_damage(*error));
}

// With a checksum that fits: what a program with a bug, or somebody else, has written.
TEST_F(CheckpointTest, AManifestIsHeldAgainstWhatOneCanBe) {
  const std::string name = manifest_name(at(61'000), 3);
  const auto code_with = [&](const std::function<void(Manifest&)>& change) {
    Manifest manifest = manifest_of(at(61'000), 3);
    change(manifest);
    write_manifest(files_, directory, manifest);
    return code_of([&] { read_manifest(files_, directory + "/" + name); });
  };
  EXPECT_EQ(code_with([](Manifest& it) { it.chain[1].name = "../state-1"; }), Code::corrupt_data);
  EXPECT_EQ(code_with([](Manifest& it) { it.chain[1].name = "state-/../../secret"; }), Code::corrupt_data);
  EXPECT_EQ(code_with([](Manifest& it) { it.chain[1].name = ".."; }), Code::corrupt_data);
  EXPECT_EQ(code_with([](Manifest& it) { it.chain[1].name = "FORMAT"; }), Code::corrupt_data);
  EXPECT_EQ(code_with([](Manifest& it) { it.chain[0].base = false; }), Code::corrupt_data);
  EXPECT_EQ(code_with([](Manifest& it) { it.chain[1].base = true; }), Code::corrupt_data);
  const StateSnapshot snapshot{1, "snapshot-1", 3, {{"000009.sst", 5, 7}}};
  EXPECT_EQ(code_with([&](Manifest& it) { it.snapshots = {snapshot}; }), std::nullopt);
  const auto code_with_snapshot = [&](const std::function<void(StateSnapshot&)>& change) {
    return code_with([&](Manifest& it) { change(it.snapshots.emplace_back(snapshot)); });
  };
  EXPECT_EQ(code_with_snapshot([](StateSnapshot& it) { it.operator_index = 2; }), Code::corrupt_data);
  EXPECT_EQ(code_with_snapshot([](StateSnapshot& it) { it.directory = "snapshot-"; }), Code::corrupt_data);
  EXPECT_EQ(code_with_snapshot([](StateSnapshot& it) { it.directory = "journal"; }), Code::corrupt_data);
  EXPECT_EQ(code_with_snapshot([](StateSnapshot& it) { it.directory = "snapshot-/.."; }), Code::corrupt_data);
  EXPECT_EQ(code_with_snapshot([](StateSnapshot& it) { it.files[0].name = "../FORMAT"; }), Code::corrupt_data);
  EXPECT_EQ(code_with_snapshot([](StateSnapshot& it) { it.files[0].name = ""; }), Code::corrupt_data);
}

// Earlier programs know version 1 alone, and have no use for snapshots.
TEST_F(CheckpointTest, AManifestIsOfVersionTwoWhenItNamesSnapshots) {
  Manifest manifest = manifest_of(at(61'000), 3);
  const std::string path = directory + "/" + manifest_name(manifest.time, manifest.epoch);
  write_manifest(files_, directory, manifest);
  EXPECT_EQ(read_file(files_, path)[4], 1);
  manifest.snapshots = {{0, "snapshot-a", 12, {{"000009.sst", 1'000'000'000'000, 0xfedcba98U}, {"CURRENT", 16, 0}}},
                        {1, "snapshot-b", 0, {}}};
  write_manifest(files_, directory, manifest);
  EXPECT_EQ(read_file(files_, path)[4], 2);
  EXPECT_EQ(read_manifest(files_, path) == manifest, true);
  EXPECT_EQ(snapshot_of(manifest, 1), &manifest.snapshots[1]);
  EXPECT_EQ(snapshot_of(manifest_of(at(61'000), 3), 0), nullptr);
}

TEST_F(CheckpointTest, FilesOfASnapshotAreHeldAgainstItsManifest) {
  const std::string large(3 << 20, 'x');
  const StateSnapshot snapshot{0, "snapshot-1", 1, {{"CURRENT", 4, crc32c("here")}, {"1.sst", 3 << 20, crc32c(large)}}};
  const std::string path = directory + "/snapshot-1/";
  files_.make_directories(directory + "/snapshot-1");
  files_.publish(path + "CURRENT", "here");
  files_.publish(path + "1.sst", large);
  const auto code = [&](bool all) { return code_of([&] { check_snapshot(files_, directory, snapshot, all); }); };
  EXPECT_EQ(code(true), std::nullopt);
  std::string other = large;
  other.back() = 'y';
  files_.publish(path + "1.sst", other);
  EXPECT_EQ(code(false), std::nullopt) << "large files are read when all are";
  EXPECT_EQ(code(true), Code::corrupt_data);
  files_.publish(path + "1.sst", large + 'x');
  EXPECT_EQ(code(false), Code::corrupt_data);
  files_.publish(path + "1.sst", large);
  files_.publish(path + "CURRENT", "gone");
  EXPECT_EQ(code(false), Code::corrupt_data);
  files_.remove(path + "CURRENT");
  EXPECT_EQ(code(false), Code::truncated_data);
}

TEST_F(CheckpointTest, AManifestThatCouldNotBeReadBackIsNotWritten) {
  Manifest manifest = manifest_of(at(61'000), 3);
  manifest.inputs["lines"] = std::string(256 << 20, 'x');
  EXPECT_EQ(code_of([&] { write_manifest(files_, directory, manifest); }), Code::over_limit);
  EXPECT_THAT(list_manifests(files_, directory), ElementsAre());
}

TEST_F(CheckpointTest, SizesOverTheirRangeAreDamage) {
  Encoder body;
  for (int i = 0; i < 3; ++i) body.u64(1);  // time, epoch, build
  body.text("app");
  for (int i = 0; i < 3; ++i) body.u64(1);  // zero, interval, seed
  body.varint(1);
  body.text("counts");
  for (const char* part : {"window", "text", "i64"}) body.text(part);
  body.varint((std::uint64_t{1} << 32) + 8);  // cut to 32 bits it would be 8
  for (int i = 0; i < 3; ++i) body.varint(0);
  body.varint(1);
  body.varint(0);
  body.varint(0);
  put(manifest_name(Time(Duration(1)), 1), "SLCM", 1, body.view());
  EXPECT_EQ(code_of([&] { read_manifest(files_, directory + "/" + manifest_name(Time(Duration(1)), 1)); }),
            Code::corrupt_data);
}

// ---- State files

TEST_F(CheckpointTest, BlocksAreReadAsTheyWereWritten) {
  // Many small ones, some larger than the buffer of the writer or reader, and none.
  for (const auto& [count, bytes_max] : std::vector<std::pair<int, int>>{{0, 0}, {1, 0}, {3'000, 300}, {6, 700'000}}) {
    std::vector<Read> written;
    const StateFileInfo info = write_blocks("state-1.base", static_cast<std::uint64_t>(count),
                                            static_cast<std::uint64_t>(bytes_max), &written);
    sim_.crash_disk();
    EXPECT_EQ(info.name, "state-1.base");
    EXPECT_EQ(info.blocks, written.size());
    EXPECT_EQ(info.bytes, files_.stat(directory + "/state-1.base")->size_bytes);
    EXPECT_TRUE(info.base);
    EXPECT_EQ(read_file_of(info) == written, true);
  }
}

TEST_F(CheckpointTest, ScanningTellsWhereBlocksLie) {
  const StateFileInfo info = write_blocks("state-1.base", 50, 100);
  const std::string bytes = read_file(files_, directory + "/state-1.base");
  int blocks = 0;
  scan_state_file(files_, directory, info, [&](const std::vector<CheckpointOperator>&, const StateBlockAt& block) {
    EXPECT_EQ(bytes.substr(block.offset, block.bytes.size()), block.bytes);
    ++blocks;
  });
  EXPECT_EQ(blocks, 50);
}

TEST_F(CheckpointTest, AnUnfinishedFileLeavesNothing) {
  {
    StateFileWriter out(files_, directory, "state-1.base", true, {{"counts", schema_of_counts(), 4}});
    for (int i = 0; i < 10; ++i) out.add(0, {StateBlock::What::entries, 0, 0, std::string(100'000, 'x')});
    EXPECT_EQ(files_.stat(directory + "/state-1.base"), std::nullopt);
  }
  EXPECT_TRUE(files_.list(directory)->empty());
}

TEST_F(CheckpointTest, ABlockThatCouldNotBeReadBackIsNotWritten) {
  StateFileWriter out(files_, directory, "state-1.base", true, {{"counts", schema_of_counts(), 4}});
  StateBlock block;
  block.bytes.resize((1 << 30) + 1);
  EXPECT_EQ(code_of([&] { out.add(0, block); }), Code::over_limit);
}

TEST_F(CheckpointTest, OfRandomBitFlipsInAStateFileNoneIsOverlooked) {
  std::vector<Read> written;
  const StateFileInfo info = write_blocks("state-1.base", 12, 60, &written);
  const std::string whole = read_file(files_, directory + "/state-1.base");
  for (int i = 0; i < 10'000; ++i) {
    std::string flipped = whole;
    for (std::uint64_t flips = 1 + random_.below(3); flips > 0; --flips) {
      flipped[random_.below(flipped.size())] ^= static_cast<char>(1 << random_.below(8));
    }
    if (flipped == whole) continue;
    expect_damage_or("state-1.base", flipped, [&] { EXPECT_EQ(read_file_of(info) == written, true); });
    ++flips_;
  }
  EXPECT_EQ(detected_, flips_);
}

TEST_F(CheckpointTest, AStateFileCutAnywhereIsDamage) {
  const StateFileInfo info = write_blocks("state-1.base", 12, 60);
  const std::string whole = read_file(files_, directory + "/state-1.base");
  for (std::size_t size = 0; size < whole.size(); ++size) {
    expect_damage_or("state-1.base", whole.substr(0, size), [&] { read_file_of(info); });
  }
  EXPECT_EQ(detected_, whole.size());
  for (const std::string& more : {std::string(1, '\0'), std::string(8, '\0'), whole.substr(5)}) {
    expect_damage_or("state-1.base", whole + more, [&] { read_file_of(info); });
  }
  EXPECT_EQ(detected_, whole.size() + 3);
}

TEST_F(CheckpointTest, AStateFileIsTheOneThatTheManifestNames) {
  const StateFileInfo info = write_blocks("state-1.base", 12, 60);
  const auto code_with = [&](auto change) {
    StateFileInfo other = info;
    change(other);
    return code_of([&] { read_file_of(other); });
  };
  EXPECT_EQ(code_with([](StateFileInfo& it) { ++it.bytes; }), Code::corrupt_data);
  EXPECT_EQ(code_with([](StateFileInfo& it) { ++it.blocks; }), Code::corrupt_data);
  EXPECT_EQ(code_with([](StateFileInfo& it) { --it.blocks; }), Code::corrupt_data);
  EXPECT_EQ(code_with([](StateFileInfo& it) { it.name = "state-2.base"; }), Code::not_readable);
}

TEST_F(CheckpointTest, ANewerStateFileIsRefused) {
  put("state-1.base", "SLCS", 2, "anything at all", "and more");
  const auto error = error_of([&] { read_file_of({"state-1.base", 36, 1, true}); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), Code::other_version);
  EXPECT_THAT(error->details().why, HasSubstr("/ckpt/state-1.base: this is a state file of version 2; "));
}

TEST_F(CheckpointTest, ABlockIsHeldAgainstWhatOneCanBe) {
  const CheckpointOperator counts{"counts", schema_of_counts(), 4};
  const CheckpointOperator kept{"lines", {std::string(kept_kind), "", "text", 0, 0, 3, 1}, 0};
  const auto code_with = [&](const CheckpointOperator& of, std::uint32_t index, const StateBlock& block) {
    StateFileWriter out(files_, directory, "state-1.base", true, {of});
    out.add(index, block);
    const StateFileInfo info = out.finish();
    return code_of([&] { read_file_of(info); });
  };
  const auto entries = StateBlock::What::entries;
  const auto log = StateBlock::What::log;
  EXPECT_EQ(code_with(counts, 1, {entries, 0, 0, "x"}), Code::corrupt_data);
  EXPECT_EQ(code_with(counts, 0, {entries, 1024, 0, "x"}), Code::corrupt_data);
  EXPECT_EQ(code_with(counts, 0, {log, 0, 0, "x"}), Code::corrupt_data);
  EXPECT_EQ(code_with(kept, 0, {entries, 0, 0, "x"}), Code::corrupt_data);
  EXPECT_EQ(code_with(counts, 0, {StateBlock::What{}, 0, 0, "x"}), Code::corrupt_data);
  EXPECT_EQ(code_with(counts, 0, {StateBlock::What{3}, 0, 0, "x"}), Code::corrupt_data);
}

}  // namespace
}  // namespace sluice::detail
