#include "sluice/testkit/faulty_filesystem.h"

#include <gtest/gtest.h>

#include <string>

#include "sluice/runtime/errors.h"
#include "sluice/testkit/simulation.h"

namespace sluice::testing {
namespace {

class FaultyFileSystemTest : public ::testing::Test {
 protected:
  // The reason of the failure, or "" when there is none.
  template <typename Call>
  static std::string reason_of(Call call) {
    try {
      call();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::io_failed);
      return error.details().why;
    }
    return "";
  }

  Simulation sim_{1};
  FaultyFileSystem files_{sim_.files()};
};

using FaultyFileSystemDeathTest = FaultyFileSystemTest;

TEST_F(FaultyFileSystemTest, PassesOnWhatTheScriptDoesNotName) {
  files_.fail({.operation = FileOperation::append, .path_part = "other"});
  files_.make_directories("/d");
  const auto file = files_.create("/d/f");
  file->append(std::string("12345"));
  file->write_at(1, std::string("x"));
  file->truncate(4);
  file->sync();
  files_.sync_directory("/d");
  files_.rename("/d/f", "/d/g");
  EXPECT_TRUE(files_.rename_new("/d/g", "/d/h"));
  files_.open_append("/d/h")->append(std::string("!"));
  EXPECT_EQ(read_file(files_, "/d/h"), "1x34!");
  EXPECT_EQ(files_.open("/d/none"), nullptr);
  EXPECT_EQ(files_.list("/d")->size(), 1u);
  EXPECT_EQ(files_.stat("/d/h")->size_bytes, 5u);
  EXPECT_TRUE(files_.remove("/d/h"));
  EXPECT_EQ(files_.failures(), 0u);
}

TEST_F(FaultyFileSystemTest, FailsTheOperationOfThatNumberAndNoOther) {
  files_.fail({.operation = FileOperation::append, .path_part = "/f", .nth = 2, .times = 2});
  const auto file = files_.create("/f");
  const auto other = files_.create("/g");
  EXPECT_EQ(reason_of([&] { file->append(std::string("1")); }), "");
  EXPECT_EQ(reason_of([&] { other->append(std::string("x")); }), "");
  EXPECT_NE(reason_of([&] { file->append(std::string("2")); }).find("/f: Input/output error"), std::string::npos);
  EXPECT_NE(reason_of([&] { file->append(std::string("3")); }), "");
  EXPECT_EQ(reason_of([&] { file->append(std::string("4")); }), "");
  EXPECT_EQ(read_file(files_, "/f"), "14");
  EXPECT_EQ(files_.failures(), 2u);
}

TEST_F(FaultyFileSystemTest, AShortWriteLeavesHalf) {
  files_.fail({.operation = FileOperation::append, .fault = FileFault::short_write});
  files_.fail({.operation = FileOperation::write_at, .fault = FileFault::short_write});
  const auto file = files_.create("/f");
  EXPECT_NE(reason_of([&] { file->append(std::string("abcdef")); }).find("No space left"), std::string::npos);
  EXPECT_EQ(read_file(files_, "/f"), "abc");
  EXPECT_NE(reason_of([&] { file->write_at(0, std::string("xyz")); }).find("No space left"), std::string::npos);
  EXPECT_EQ(read_file(files_, "/f"), "xbc");
}

TEST_F(FaultyFileSystemTest, CountsOperationsByPath) {
  const auto file = files_.create("/f");
  const auto other = files_.create("/g");
  file->sync();
  file->sync();
  other->sync();
  EXPECT_EQ(files_.count(FileOperation::create), 2u);
  EXPECT_EQ(files_.count(FileOperation::sync, "/f"), 2u);
  EXPECT_EQ(files_.count(FileOperation::sync), 3u);
  EXPECT_EQ(files_.count(FileOperation::sync, "/none"), 0u);
}

TEST_F(FaultyFileSystemTest, CanBeMended) {
  files_.fail({.operation = FileOperation::create, .times = 100, .fault = FileFault::disk_full});
  EXPECT_NE(reason_of([&] { files_.create("/f"); }), "");
  EXPECT_EQ(files_.stat("/f"), std::nullopt);
  files_.mend();
  EXPECT_EQ(reason_of([&] { files_.create("/f"); }), "");
}

TEST_F(FaultyFileSystemTest, AFailedPublishThrowsAndKeepsTheOldContent) {
  files_.publish("/f", std::string("old"));
  for (const FileOperation step : {FileOperation::create, FileOperation::append, FileOperation::rename}) {
    files_.fail({.operation = step});
    EXPECT_NE(reason_of([&] { files_.publish("/f", std::string("new")); }), "");
    EXPECT_EQ(read_file(files_, "/f"), "old");
    EXPECT_EQ(files_.list("/")->size(), 1u);
  }
}

TEST_F(FaultyFileSystemDeathTest, AFailedSyncEndsTheProcess) {
  files_.fail({.operation = FileOperation::sync, .path_part = "/f"});
  EXPECT_DEATH(files_.create("/f")->sync(), "the sync of /f fails");
  files_.fail({.operation = FileOperation::sync_directory});
  EXPECT_DEATH(files_.sync_directory("/"), "the sync of / fails");
}

TEST_F(FaultyFileSystemTest, AFailedSyncCanKillTheSimulatedProcessInstead) {
  files_.fail({.operation = FileOperation::sync});
  files_.on_failed_sync([&](const std::string&) {
    sim_.crash_after(0);
    sim_.pause();
  });
  EXPECT_THROW(sim_.run([&] { files_.create("/f")->sync(); }), SimulatedCrash);
}

TEST_F(FaultyFileSystemTest, ARuntimeHasTheFilesAndAllElseOfItsBase) {
  FaultyRuntime runtime(sim_, files_);
  EXPECT_EQ(&runtime.files(), &files_);
  EXPECT_EQ(&runtime.clock(), &sim_.clock());
  EXPECT_EQ(&runtime.transport(), &sim_.transport());
  bool ran = false;
  sim_.run([&] {
    const auto thread = runtime.spawn("thread", [&] { ran = true; });
    thread->join();
    EXPECT_EQ(runtime.executors(2)->cores(), 2u);
  });
  EXPECT_TRUE(ran);
}

}  // namespace
}  // namespace sluice::testing
