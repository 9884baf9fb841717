// own main
// Shuffle output that does not fit the memory of executors: in processes of this binary, and in threads where the disk
// does what a test says.
#include <gtest/gtest.h>

#include <csignal>
#include <string>
#include <utility>
#include <vector>

#include "sluice/cluster/scheduler.h"
#include "sluice/sluice.h"
#include "sluice/testkit/faulty_filesystem.h"
#include "sluice/testkit/testing.h"
#include "tests/scenario/cluster_jobs.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;
using testing::FaultyFileSystem;
using testing::FaultyRuntime;
using testing::FileFault;
using testing::FileOperation;

constexpr int records = 60'000;
/// Of each executor; a shuffle of the records takes some 5 MB.
constexpr std::size_t memory_bytes = 128 << 10;

std::vector<std::string> texts() {
  std::vector<std::string> texts;
  for (int i = 0; i < records; ++i) texts.push_back("key number " + std::to_string(i % (records / 2)));
  return texts;
}

/// A shuffle that combines and one that moves, in an order that tells which bucket came first.
std::vector<std::pair<std::string, long>> counted(const Context& ctx) {
  return ctx.parallelize(texts(), 6)
      .repartition(5)
      .map([](const std::string& text) { return std::pair{text, 1L}; })
      .reduce_by_key(std::plus{})
      .collect()
      .to_vector();
}

std::vector<std::pair<std::string, long>> counted_here() {
  static const auto expected = counted(Context{{.master = "local[2]", .partitions = 3, .hash_seed = 42}});
  return expected;
}

ContextOptions options_of(const std::string& compression = {}) {
  return {.master = "local-cluster[2,1]",
          .partitions = 3,
          .memory_bytes = memory_bytes,
          .shuffle_compression = compression,
          .hash_seed = 42,
          .executor_timeout = 20s};
}

/// Executors are threads, and their disk fails as the script says.
struct OnAFaultyDisk {
  FaultyFileSystem files{system_runtime().files()};
  FaultyRuntime runtime{system_runtime(), files};

  Context context() {
    ContextOptions options = options_of();
    options.runtime = &runtime;
    return Context(options);
  }
  std::uint64_t spilled() const { return files.count(FileOperation::create, "/shuffle-"); }
};

TEST(ClusterShuffle, ManyTimesTheMemoryOfProcessesGivesTheSame) {
  FileSystem& files = system_runtime().files();
  const std::string spill = ::testing::TempDir() + "/cluster-shuffle-" + std::to_string(system_runtime().random_seed());
  for (const char* compression : {"none", "lz4"}) {
    ContextOptions options = options_of(compression);
    options.spill_directory = spill;
    {
      const Context ctx{options};
      EXPECT_EQ(counted(ctx), counted_here()) << compression;
      EXPECT_FALSE(files.list(spill).value().empty());
      // One that is killed does not remove what it has spilled.
      ::kill(static_cast<pid_t>(members_of(ctx).pids().at(0)), SIGKILL);
      EXPECT_EQ(counted(ctx), counted_here()) << compression;
    }
    EXPECT_TRUE(files.list(spill).value().empty());
  }
  files.remove_all(spill);
}

TEST(ClusterShuffle, GoesToDiskAndNothingIsLeftThere) {
  OnAFaultyDisk disk;
  {
    const Context ctx = disk.context();
    EXPECT_EQ(counted(ctx), counted_here());
    EXPECT_GE(disk.spilled(), 6U);
  }
  EXPECT_GE(disk.files.count(FileOperation::remove, "/shuffle-"), disk.spilled());
}

TEST(ClusterShuffle, StaysInMemoryWhenTheDiskIsFull) {
  OnAFaultyDisk disk;
  disk.files.fail({.operation = FileOperation::append,
                   .path_part = "/shuffle-",
                   .times = 1'000'000,
                   .fault = FileFault::disk_full});
  const Context ctx = disk.context();
  EXPECT_EQ(counted(ctx), counted_here());
  EXPECT_GT(disk.files.failures(), 0U);
}

TEST(ClusterShuffle, ThatIsDamagedOnDiskIsMadeAgainAndItsExecutorLives) {
  for (const FileOperation operation : {FileOperation::open, FileOperation::read_at}) {
    for (std::uint64_t nth = 1; nth < 30; nth += 7) {
      OnAFaultyDisk disk;
      const Context ctx = disk.context();
      const std::vector<detail::ExecutorId> before = members_of(ctx).ready();
      disk.files.fail({.operation = operation, .path_part = "/shuffle-", .nth = nth, .times = 2});
      EXPECT_EQ(counted(ctx), counted_here());
      EXPECT_GE(disk.files.failures(), 1U);
      EXPECT_EQ(members_of(ctx).ready(), before);
      EXPECT_EQ(before.size(), 2U);
    }
  }
}

TEST(ClusterShuffle, OnADiskThatDamagesAllFailsInTheEnd) {
  OnAFaultyDisk disk;
  const Context ctx = disk.context();
  disk.files.fail({.operation = FileOperation::read_at, .path_part = "/shuffle-", .times = 1'000'000});
  try {
    counted(ctx);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::corrupt_data) << error.what();
  }
  disk.files.mend();
  EXPECT_EQ(members_of(ctx).ready().size(), 2U);
  EXPECT_EQ(counted(ctx), counted_here());
}

TEST(ClusterShuffle, CompressionOfAnUnknownKindIsRefused) {
  try {
    const Context ctx{options_of("zip")};
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::bad_setting) << error.what();
  }
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  sluice::init(argc, argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
