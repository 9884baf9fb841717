#include "sluice/runtime/filesystem.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "sluice/runtime/errors.h"
#include "sluice/runtime/posix.h"
#include "sluice/runtime/runtime.h"
#include "sluice/testkit/thrown.h"

namespace sluice {
namespace {

using testing::code_of;

// A directory of its own for each test.
class LocalFilesTest : public ::testing::Test {
 protected:
  LocalFilesTest() {
    std::string pattern = ::testing::TempDir() + "/sluice-files-XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
  }
  ~LocalFilesTest() override { files_.remove_all(directory_); }

  std::string path(const std::string& name) const { return directory_ + "/" + name; }

  void write(const std::string& name, std::string_view text) { files_.create(path(name))->append(text); }

  std::string text(const std::string& name) { return read_file(files_, path(name)); }

  std::vector<std::string> names(const std::string& below = "") {
    std::vector<std::string> result;
    const std::string at = below.empty() ? directory_ : path(below);
    const auto entries = files_.list(at).value();
    for (const FileInfo& info : entries) result.push_back(info.path.substr(at.size() + 1));
    return result;
  }

  FileSystem& files_ = system_runtime().files();
  std::string directory_;
};

using Names = std::vector<std::string>;

TEST_F(LocalFilesTest, PublishWritesTheWholeContent) {
  files_.publish(path("a"), std::string("hello"));
  EXPECT_EQ(text("a"), "hello");
}

TEST_F(LocalFilesTest, PublishLeavesNoTemporary) {
  files_.publish(path("a"), std::string("hello"));
  EXPECT_EQ(names(), Names{"a"});
}

TEST_F(LocalFilesTest, APrivateFileIsForItsOwnerAndNew) {
  files_.create_private(path("key"))->append("secret");
  EXPECT_EQ(files_.stat(path("key"))->mode, 0600U);
  EXPECT_EQ(text("key"), "secret");
  EXPECT_EQ(code_of([&] { files_.create_private(path("key")); }), Code::io_failed);
  files_.publish(path("key"), "other", Readers::owner);
  EXPECT_EQ(files_.open(path("key"))->info().mode, 0600U);
  EXPECT_TRUE(files_.publish_new(path("new"), "other", Readers::owner));
  EXPECT_EQ(files_.stat(path("new"))->mode, 0600U);
  write("open", "text");
  EXPECT_EQ(files_.stat(path("open"))->mode & 0400U, 0400U);
}

// A reader that opened the old file keeps the old bytes: the name moved to a new file and nothing was overwritten.
TEST_F(LocalFilesTest, PublishReplacesTheNameAndNotTheBytes) {
  files_.publish(path("a"), std::string("old"));
  const auto before = files_.stat(path("a"));
  const auto reader = files_.open(path("a"));
  files_.publish(path("a"), std::string("new content"));
  std::string seen(20, '\0');
  seen.resize(reader->read_at(0, seen));
  EXPECT_EQ(seen, "old");
  EXPECT_EQ(text("a"), "new content");
  EXPECT_FALSE(files_.stat(path("a"))->same_file(*before));
}

TEST_F(LocalFilesTest, AFailedPublishLeavesOldContentAndNoTemporary) {
  files_.make_directories(path("a/in-the-way"));
  EXPECT_EQ(code_of([&] { files_.publish(path("a"), std::string("new")); }), Code::io_failed);
  EXPECT_EQ(names(), Names{"a"});
}

TEST_F(LocalFilesTest, PublishNewTakesANameOnce) {
  EXPECT_TRUE(files_.publish_new(path("a"), std::string("mine")));
  EXPECT_FALSE(files_.publish_new(path("a"), std::string("too late")));
  EXPECT_EQ(text("a"), "mine");
  EXPECT_EQ(names(), Names{"a"});
}

TEST_F(LocalFilesTest, PublishNewGivesANameToOneOfMany) {
  std::atomic<int> winners{0};
  std::vector<std::unique_ptr<Thread>> threads;
  for (int i = 0; i < 8; ++i) {
    threads.push_back(system_runtime().spawn("publisher", [&, i] {
      for (int epoch = 0; epoch < 20; ++epoch) {
        const std::string name = path(std::to_string(epoch));
        if (!files_.publish_new(name, std::to_string(i))) continue;
        ++winners;
        if (read_file(files_, name) != std::to_string(i)) winners = 1'000;
      }
    }));
  }
  for (const auto& thread : threads) thread->join();
  EXPECT_EQ(winners, 20);
  EXPECT_EQ(names().size(), 20u);
}

TEST_F(LocalFilesTest, AFailedPublishNewLeavesNothing) {
  EXPECT_EQ(code_of([&] { files_.publish_new(path("none/a"), std::string("x")); }), Code::io_failed);
  EXPECT_EQ(names(), Names{});
}

TEST_F(LocalFilesTest, RenameNewMovesOnlyToAFreeName) {
  write("a", "1");
  write("b", "2");
  EXPECT_TRUE(files_.rename_new(path("a"), path("c")));
  EXPECT_FALSE(files_.rename_new(path("b"), path("c")));
  EXPECT_FALSE(files_.rename_new(path("b"), path("b")));
  EXPECT_EQ(names(), (Names{"b", "c"}));
  EXPECT_EQ(text("c"), "1");
  EXPECT_EQ(code_of([&] { files_.rename_new(path("missing"), path("d")); }), Code::io_failed);
}

TEST_F(LocalFilesTest, RenameNewTakesADanglingLinkForAName) {
  write("a", "1");
  ASSERT_EQ(::symlink("nowhere", path("link").c_str()), 0);
  EXPECT_FALSE(files_.rename_new(path("a"), path("link")));
  EXPECT_FALSE(detail::rename_new_by_link(path("a"), path("link")));
}

TEST_F(LocalFilesTest, RenameNewByALinkMovesOnlyToAFreeName) {
  write("a", "1");
  write("b", "2");
  EXPECT_TRUE(detail::rename_new_by_link(path("a"), path("c")));
  EXPECT_FALSE(detail::rename_new_by_link(path("b"), path("c")));
  EXPECT_EQ(names(), (Names{"b", "c"}));
  EXPECT_EQ(text("c"), "1");
  EXPECT_EQ(code_of([&] { detail::rename_new_by_link(path("missing"), path("d")); }), Code::io_failed);
}

TEST_F(LocalFilesTest, AListIsOrderedByPath) {
  for (const char* name : {"b", "a10", ".hidden", "a1", "C"}) write(name, "");
  EXPECT_EQ(names(), (Names{".hidden", "C", "a1", "a10", "b"}));
}

TEST_F(LocalFilesTest, AListTellsFilesFromDirectories) {
  files_.make_directories(path("d"));
  write("f", "123");
  const auto entries = files_.list(directory_).value();
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_TRUE(entries[0].is_directory);
  EXPECT_FALSE(entries[1].is_directory);
  EXPECT_EQ(entries[1].size_bytes, 3u);
}

TEST_F(LocalFilesTest, AListOfWhatIsNoDirectoryIsNothing) {
  write("f", "");
  EXPECT_EQ(files_.list(path("missing")), std::nullopt);
  EXPECT_EQ(files_.list(path("f")), std::nullopt);
}

TEST_F(LocalFilesTest, IdentityChangesWhenAFileIsReplaced) {
  write("a", "same bytes");
  write("b", "same bytes");
  const auto before = files_.stat(path("a")).value();
  files_.rename(path("b"), path("a"));
  EXPECT_FALSE(files_.stat(path("a"))->same_file(before));
}

TEST_F(LocalFilesTest, IdentityIsKeptWhenAFileGrowsOrMoves) {
  write("a", "1");
  const auto before = files_.stat(path("a")).value();
  files_.open_append(path("a"))->append(std::string("2"));
  files_.rename(path("a"), path("b"));
  EXPECT_TRUE(files_.stat(path("b"))->same_file(before));
  EXPECT_EQ(files_.open(path("b"))->info().size_bytes, 2u);
}

TEST_F(LocalFilesTest, ALinkTellsOfItsTarget) {
  write("f", "123");
  ASSERT_EQ(::symlink(path("f").c_str(), path("link").c_str()), 0);
  const auto info = files_.stat(path("link")).value();
  EXPECT_TRUE(info.is_link);
  EXPECT_EQ(info.size_bytes, 3u);
  EXPECT_TRUE(info.same_file(*files_.stat(path("f"))));
}

TEST_F(LocalFilesTest, ADanglingLinkIsListedAsItself) {
  ASSERT_EQ(::symlink("nowhere", path("link").c_str()), 0);
  EXPECT_EQ(names(), Names{"link"});
  EXPECT_EQ(files_.open(path("link")), nullptr);
}

TEST_F(LocalFilesTest, ReadsPastTheEndAreEmpty) {
  write("a", "12345");
  const auto file = files_.open(path("a"));
  std::string buffer(4, '\0');
  EXPECT_EQ(file->read_at(3, buffer), 2u);
  EXPECT_EQ(buffer.substr(0, 2), "45");
  EXPECT_EQ(file->read_at(5, buffer), 0u);
  EXPECT_EQ(file->read_at(1'000'000, buffer), 0u);
}

TEST_F(LocalFilesTest, AppendGoesOnAtTheEnd) {
  write("a", "one");
  files_.open_append(path("a"))->append(std::string(" two"));
  EXPECT_EQ(text("a"), "one two");
}

TEST_F(LocalFilesTest, AppendAfterTruncateGoesOnAtTheNewEnd) {
  write("a", "12345");
  const auto file = files_.open_append(path("a"));
  file->truncate(2);
  file->append(std::string("x"));
  file->sync();
  EXPECT_EQ(text("a"), "12x");
}

TEST_F(LocalFilesTest, AppendToACreatedFileGoesOnAtItsEnd) {
  const auto file = files_.create(path("a"));
  file->append(std::string("12345"));
  file->truncate(2);
  file->append(std::string("x"));
  file->write_at(0, std::string("A"));
  file->append(std::string("y"));
  file->write_at(6, std::string("z"));
  file->append(std::string("!"));
  file->sync();
  EXPECT_EQ(text("a"), std::string("A2xy\0\0z!", 8));
}

TEST_F(LocalFilesTest, WriteAtChangesWhatIsThereAndWhatIsBeyond) {
  const auto file = files_.create(path("a"));
  file->append(std::string("0123456789"));
  file->write_at(3, std::string("xyz"));
  EXPECT_EQ(text("a"), "012xyz6789");
  file->write_at(8, std::string("abcd"));
  EXPECT_EQ(text("a"), "012xyz67abcd");
}

TEST_F(LocalFilesTest, WriteAtIsRefusedWhereItWouldNotBeTrue) {
  write("a", "12345");
  const auto appended = files_.open_append(path("a"));
  EXPECT_EQ(code_of([&] { appended->write_at(0, std::string("x")); }), Code::io_failed);
  const auto read = files_.open(path("a"));
  EXPECT_EQ(code_of([&] { read->write_at(0, std::string("x")); }), Code::io_failed);
  EXPECT_EQ(text("a"), "12345");
}

TEST_F(LocalFilesTest, AFileThatIsReadCanBeSynced) {
  write("a", "12345");
  files_.open(path("a"))->sync();
}

TEST_F(LocalFilesTest, CreateEmptiesAnOlderFile) {
  write("a", "old");
  files_.create(path("a"));
  EXPECT_EQ(text("a"), "");
}

TEST_F(LocalFilesTest, AMissingFileIsNoError) {
  EXPECT_EQ(files_.open(path("missing")), nullptr);
  EXPECT_EQ(files_.stat(path("missing")), std::nullopt);
  EXPECT_FALSE(files_.remove(path("missing")));
  EXPECT_FALSE(files_.remove_all(path("missing")));
}

TEST_F(LocalFilesTest, AnErrorNamesPathAndReason) {
  try {
    files_.rename(path("missing"), path("b"));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::io_failed);
    EXPECT_NE(error.details().why.find(path("missing")), std::string::npos);
    EXPECT_NE(error.details().why.find("No such file"), std::string::npos);
  }
}

TEST_F(LocalFilesTest, AFullDiskIsAnError) {
  const auto full = files_.open_append("/dev/full");
  EXPECT_EQ(code_of([&] { full->append(std::string("x")); }), Code::io_failed);
}

TEST_F(LocalFilesTest, WhatCannotBeSyncedIsAnErrorAndNotTheEnd) {
  const auto device = files_.open_append("/dev/null");
  EXPECT_EQ(code_of([&] { device->sync(); }), Code::io_failed);
}

TEST_F(LocalFilesTest, DirectoriesAreMadeWithTheirParents) {
  files_.make_directories(path("a/b/c"));
  files_.make_directories(path("a/b/c"));
  EXPECT_TRUE(files_.stat(path("a/b/c"))->is_directory);
  files_.make_directories("/");
  files_.make_directories("/proc/self");
}

TEST_F(LocalFilesTest, AFileInTheWayOfADirectoryIsAnError) {
  write("a", "");
  EXPECT_EQ(code_of([&] { files_.make_directories(path("a")); }), Code::io_failed);
  EXPECT_EQ(code_of([&] { files_.make_directories(path("a/b")); }), Code::io_failed);
}

TEST_F(LocalFilesTest, RemoveTakesEmptyDirectoriesOnly) {
  files_.make_directories(path("a/b"));
  EXPECT_EQ(code_of([&] { files_.remove(path("a")); }), Code::io_failed);
  EXPECT_TRUE(files_.remove(path("a/b")));
  EXPECT_TRUE(files_.remove(path("a")));
}

TEST_F(LocalFilesTest, RemoveAllTakesTheWholeTree) {
  files_.make_directories(path("a/b/c"));
  write("a/b/f", "x");
  EXPECT_TRUE(files_.remove_all(path("a")));
  EXPECT_EQ(names(), Names{});
}

TEST_F(LocalFilesTest, RemoveAllDoesNotFollowLinks) {
  files_.make_directories(path("kept"));
  write("kept/f", "x");
  files_.make_directories(path("a"));
  ASSERT_EQ(::symlink(path("kept").c_str(), path("a/link").c_str()), 0);
  EXPECT_TRUE(files_.remove_all(path("a")));
  EXPECT_EQ(names(), Names{"kept"});
  EXPECT_EQ(text("kept/f"), "x");
}

TEST_F(LocalFilesTest, ReadFileTakesAFileOfAnySize) {
  std::string big(300'000, 'x');
  big.back() = 'y';
  write("a", big);
  EXPECT_EQ(text("a"), big);
}

TEST_F(LocalFilesTest, ReadFileTakesFilesThatDoNotTellTheirSize) {
  EXPECT_NE(read_file(files_, "/proc/self/status").find("Pid:"), std::string::npos);
}

TEST_F(LocalFilesTest, ReadFileOfAMissingFileIsNotReadable) {
  EXPECT_EQ(code_of([&] { read_file(files_, path("missing")); }), Code::not_readable);
}

TEST_F(LocalFilesTest, ReadFileKeepsItsLimit) {
  write("a", "12345");
  EXPECT_EQ(read_file(files_, path("a"), 5), "12345");
  EXPECT_EQ(code_of([&] { read_file(files_, path("a"), 4); }), Code::over_limit);
  EXPECT_EQ(code_of([&] { read_file(files_, "/proc/self/status", 4); }), Code::over_limit);
}

TEST(ParentPath, IsWhatComesBeforeTheLastName) {
  EXPECT_EQ(parent_path("a/b/c"), "a/b");
  EXPECT_EQ(parent_path("a/b/"), "a");
  EXPECT_EQ(parent_path("a//b"), "a");
}

TEST(ParentPath, OfANameAloneIsThisDirectory) { EXPECT_EQ(parent_path("a"), "."); }

TEST(ParentPath, EndsAtTheRoot) {
  EXPECT_EQ(parent_path("/a"), "/");
  EXPECT_EQ(parent_path("/"), "/");
}

}  // namespace
}  // namespace sluice
