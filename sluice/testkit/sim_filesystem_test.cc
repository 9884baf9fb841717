#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "sluice/runtime/errors.h"
#include "sluice/testkit/simulation.h"

namespace sluice::testing {
namespace {

std::string content(FileSystem& files, const std::string& path) { return read_file(files, path); }

// A directory whose name is not on the disk for certain.
void make_unsynced_directory(FileSystem& files, const std::string& path) {
  files.make_directories(path + ".made");
  files.rename(path + ".made", path);
}

void write_durable_file(FileSystem& files, const std::string& path, std::string_view bytes) {
  const auto file = files.create(path);
  file->append(bytes);
  file->sync();
  files.sync_directory(parent_path(path));
}

std::vector<std::string> names(FileSystem& files, const std::string& path) {
  std::vector<std::string> result;
  const auto entries = files.list(path);
  if (!entries) return {"no directory"};
  for (const FileInfo& entry : *entries) result.push_back(entry.path);
  return result;
}

bool fails(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::io_failed);
    return true;
  }
  return false;
}

TEST(SimFileSystem, APrivateFileIsNewAndForItsOwner) {
  Simulation sim(1);
  FileSystem& files = sim.files();
  files.publish("/key", "secret", Readers::owner);
  EXPECT_EQ(files.stat("/key")->mode, 0600U);
  EXPECT_EQ(content(files, "/key"), "secret");
  EXPECT_TRUE(fails([&] { files.create_private("/key"); }));
  files.publish("/text", "text");
  EXPECT_EQ(files.stat("/text")->mode, 0644U);
}

TEST(SimFileSystem, ReadsWhatWasWritten) {
  Simulation sim(1);
  FileSystem& files = sim.files();
  files.make_directories("/a/b");
  files.make_directories("/a/b");
  const auto file = files.create("/a/b/c");
  file->append(std::string("hello "));
  file->append(std::string("world"));
  EXPECT_EQ(content(files, "/a/b/c"), "hello world");
  EXPECT_EQ(content(files, "a//./b/../b/c"), "hello world");
  char bytes[4];
  EXPECT_EQ(file->read_at(9, bytes), 2U);
  EXPECT_EQ(file->read_at(11, bytes), 0U);
  file->truncate(5);
  EXPECT_EQ(content(files, "/a/b/c"), "hello");
  files.open_append("/a/b/c")->append(std::string("!"));
  EXPECT_EQ(content(files, "/a/b/c"), "hello!");
  files.create("/a/b/c");
  EXPECT_EQ(content(files, "/a/b/c"), "");
  EXPECT_EQ(names(files, "/a"), std::vector<std::string>{"/a/b"});
  EXPECT_TRUE(files.stat("/a/b")->is_directory);
  EXPECT_TRUE(files.remove_all("/a"));
  EXPECT_FALSE(files.remove_all("/a"));
}

TEST(SimFileSystem, SaysWhatIsMissingOrWrong) {
  Simulation sim(1);
  FileSystem& files = sim.files();
  files.make_directories("/d/e");
  files.create("/f");
  EXPECT_EQ(files.open("/none"), nullptr);
  EXPECT_EQ(files.open("/f/none"), nullptr);
  EXPECT_EQ(files.stat("/none"), std::nullopt);
  EXPECT_EQ(files.list("/none"), std::nullopt);
  EXPECT_EQ(files.list("/f"), std::nullopt);
  EXPECT_FALSE(files.remove("/none"));
  EXPECT_TRUE(fails([&] { files.create("/none/f"); }));
  EXPECT_TRUE(fails([&] { files.open_append("/f/g"); }));
  EXPECT_TRUE(fails([&] { files.create("/d"); }));
  EXPECT_TRUE(fails([&] { files.remove("/d"); }));
  EXPECT_TRUE(fails([&] { files.rename("/none", "/g"); }));
  EXPECT_TRUE(fails([&] { files.rename("/f", "/d"); }));
  EXPECT_TRUE(fails([&] { files.rename("/d", "/f"); }));
  EXPECT_TRUE(fails([&] { files.rename("/d", "/d/e/x"); }));
  EXPECT_TRUE(fails([&] { files.make_directories("/f/g"); }));
  EXPECT_TRUE(fails([&] { files.sync_directory("/none"); }));
  EXPECT_TRUE(fails([&] { files.open("/f")->append(std::string("x")); }));
}

TEST(SimFileSystem, RenameReplacesTheTarget) {
  Simulation sim(1);
  FileSystem& files = sim.files();
  files.create("/a")->append(std::string("new"));
  const auto old = files.create("/b");
  old->append(std::string("old"));
  const FileInfo a = *files.stat("/a");
  files.rename("/a", "/b");
  EXPECT_EQ(names(files, "/"), std::vector<std::string>{"/b"});
  EXPECT_TRUE(files.stat("/b")->same_file(a));
  char bytes[8];
  EXPECT_EQ(old->read_at(0, bytes), 3U);
  EXPECT_FALSE(old->info().same_file(a));
}

TEST(SimFileSystem, UsesInodeNumbersAgainAtOnce) {
  Simulation sim(1);
  FileSystem& files = sim.files();
  files.create("/a");
  const FileInfo first = *files.stat("/a");
  files.remove("/a");
  files.create("/a");
  const FileInfo second = *files.stat("/a");
  EXPECT_EQ(first.inode, second.inode);
  EXPECT_NE(first.birth, second.birth);
  EXPECT_FALSE(first.same_file(second));
  // Not while someone still has it open.
  auto open = files.open("/a");
  files.remove("/a");
  files.create("/b");
  EXPECT_NE(files.stat("/b")->inode, second.inode);
  open.reset();
  files.create("/c");
  EXPECT_EQ(files.stat("/c")->inode, second.inode);
}

TEST(SimFileSystem, MayLoseOrTearWhatWasNotSynced) {
  std::set<std::string> seen;
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    Simulation sim(seed);
    FileSystem& files = sim.files();
    write_durable_file(files, "/f", "synced.");
    const auto file = files.open_append("/f");
    file->append(std::string("ab"));
    file->append(std::string("cd"));
    sim.crash_disk();
    const std::string now = content(files, "/f");
    ASSERT_TRUE(now.starts_with("synced.")) << now;
    // A torn write may have zeros at its end, which are left out here.
    std::string rest = now.substr(7);
    const bool zeros = rest.ends_with('\0');
    while (rest.ends_with('\0')) rest.pop_back();
    ASSERT_TRUE(std::string("abcd").starts_with(rest)) << now;
    seen.insert(zeros ? rest + "0" : rest);
  }
  // A whole write is never followed by zeros when nothing more was written.
  EXPECT_EQ(seen, (std::set<std::string>{"", "a", "ab", "abc", "abcd", "0", "a0", "ab0", "abc0"}));
}

TEST(SimFileSystem, KeepsWhatWasSynced) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Simulation sim(seed);
    FileSystem& files = sim.files();
    write_durable_file(files, "/f", "one");
    sim.crash_disk();
    ASSERT_EQ(content(files, "/f"), "one");
    const auto file = files.open_append("/f");
    file->append(std::string("two"));
    file->truncate(5);
    file->sync();
    sim.crash_disk();
    ASSERT_EQ(content(files, "/f"), "onetw");
  }
}

TEST(SimFileSystem, OpenFilesAreInvalidAfterACrash) {
  Simulation sim(1);
  const auto file = sim.files().create("/f");
  sim.crash_disk();
  EXPECT_TRUE(fails([&] { file->append(std::string("x")); }));
  EXPECT_TRUE(fails([&] { file->info(); }));
}

TEST(SimFileSystem, MayLoseCreationsRenamesAndRemovalsWithoutADirectorySync) {
  std::set<std::vector<std::string>> seen;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Simulation sim(seed);
    FileSystem& files = sim.files();
    files.make_directories("/d");
    write_durable_file(files, "/d/moved", "");
    write_durable_file(files, "/d/removed", "");
    files.create("/d/created");
    files.rename("/d/moved", "/d/to");
    files.remove("/d/removed");
    sim.crash_disk();
    seen.insert(names(files, "/d"));
    // The disk has settled: another crash changes nothing.
    const auto before = names(files, "/d");
    sim.crash_disk();
    ASSERT_EQ(names(files, "/d"), before);
  }
  EXPECT_EQ(seen.size(), 8U);
}

TEST(SimFileSystem, KeepsNamesAfterADirectorySync) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Simulation sim(seed);
    FileSystem& files = sim.files();
    files.make_directories("/d");
    files.make_directories("/e");
    write_durable_file(files, "/d/moved", "m");
    write_durable_file(files, "/d/removed", "");
    files.create("/d/created");
    files.rename("/d/moved", "/e/to");
    files.remove("/d/removed");
    files.sync_directory("/d");
    files.sync_directory("/e");
    sim.crash_disk();
    ASSERT_EQ(names(files, "/d"), std::vector<std::string>{"/d/created"});
    ASSERT_EQ(names(files, "/e"), std::vector<std::string>{"/e/to"});
    ASSERT_EQ(content(files, "/e/to"), "m");
  }
}

TEST(SimFileSystem, AMoveBetweenDirectoriesIsKeptOnlyBySyncingTheTarget) {
  int lost = 0;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Simulation sim(seed);
    FileSystem& files = sim.files();
    files.make_directories("/d");
    files.make_directories("/e");
    write_durable_file(files, "/d/f", "m");
    files.rename("/d/f", "/e/f");
    files.sync_directory("/d");
    sim.crash_disk();
    const bool old_place = files.stat("/d/f").has_value();
    ASSERT_NE(old_place, files.stat("/e/f").has_value());
    lost += old_place;
  }
  EXPECT_GT(lost, 10);
  EXPECT_LT(lost, 90);
}

TEST(SimFileSystem, AnUnsyncedDirectoryMayVanishWithItsName) {
  int lost = 0;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Simulation sim(seed);
    FileSystem& files = sim.files();
    make_unsynced_directory(files, "/d");
    write_durable_file(files, "/d/f", "m");
    sim.crash_disk();
    const bool here = files.stat("/d").has_value();
    ASSERT_EQ(content(files, here ? "/d/f" : "/d.made/f"), "m");
    lost += !here;
  }
  EXPECT_GT(lost, 10);
  EXPECT_LT(lost, 90);
}

TEST(SimFileSystem, MadeDirectoriesAreDurableWhenTheCallReturns) {
  int partly = 0;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Simulation sim(seed);
    FileSystem& files = sim.files();
    // The first process is killed on the way. What it made is in the cache, and may be lost with the machine.
    sim.crash_after(sim.random().below(8));
    try {
      sim.run([&] { files.make_directories("/a/b/c"); });
    } catch (const SimulatedCrash&) {
      partly += files.stat("/a").has_value();
    }
    files.make_directories("/a/b/c");
    sim.crash_disk();
    ASSERT_EQ(names(files, "/a/b"), std::vector<std::string>{"/a/b/c"});
  }
  EXPECT_GT(partly, 50);
}

TEST(SimFileSystem, RenameNewMovesOnlyToAFreeName) {
  Simulation sim(1);
  FileSystem& files = sim.files();
  files.create("/a")->append(std::string("1"));
  files.create("/b");
  EXPECT_TRUE(files.rename_new("/a", "/c"));
  EXPECT_FALSE(files.rename_new("/b", "/c"));
  EXPECT_FALSE(files.rename_new("/b", "/b"));
  EXPECT_EQ(names(files, "/"), (std::vector<std::string>{"/b", "/c"}));
  EXPECT_EQ(content(files, "/c"), "1");
  EXPECT_TRUE(fails([&] { files.rename_new("/none", "/d"); }));
}

TEST(SimFileSystem, PublishNewGivesANameToOneOfMany) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Simulation sim(seed);
    FileSystem& files = sim.files();
    std::vector<int> winners;
    sim.run([&] {
      std::vector<std::unique_ptr<Thread>> threads;
      for (int i = 0; i < 3; ++i) {
        threads.push_back(sim.spawn("publisher " + std::to_string(i), [&, i] {
          if (files.publish_new("/epoch", std::to_string(i))) winners.push_back(i);
        }));
      }
      for (const auto& thread : threads) thread->join();
    });
    ASSERT_EQ(winners.size(), 1U);
    sim.crash_disk();
    ASSERT_EQ(content(files, "/epoch"), std::to_string(winners[0]));
    ASSERT_EQ(names(files, "/").back(), "/epoch");
  }
}

TEST(SimFileSystem, WriteAtChangesWhatIsThereAndWhatIsBeyond) {
  Simulation sim(1);
  FileSystem& files = sim.files();
  const auto file = files.create("/f");
  file->append(std::string("0123456789"));
  file->write_at(3, std::string("xyz"));
  file->write_at(11, std::string("ab"));
  file->append(std::string("!"));
  EXPECT_EQ(content(files, "/f"), std::string("012xyz6789\0ab!", 14));
  EXPECT_TRUE(fails([&] { files.open_append("/f")->write_at(0, std::string("x")); }));
  EXPECT_TRUE(fails([&] { files.open("/f")->write_at(0, std::string("x")); }));
}

TEST(SimFileSystem, MayLoseTearOrKeepEachWriteInTheMiddle) {
  std::set<std::string> seen;
  for (std::uint64_t seed = 0; seed < 1'000; ++seed) {
    Simulation sim(seed);
    FileSystem& files = sim.files();
    const auto file = files.create("/f");
    file->append(std::string("......"));
    file->sync();
    files.sync_directory("/");
    file->write_at(0, std::string("ab"));
    file->write_at(4, std::string("cd"));
    sim.crash_disk();
    seen.insert(content(files, "/f"));
  }
  EXPECT_EQ(seen, (std::set<std::string>{"......", "a.....", ".b....", "ab....", "....cd", "a...cd", ".b..cd", "ab..cd",
                                         "ab..c.", "ab...d"}));
}

// Whatever the order in which changes reach the disk: no file has two names, no inode two files (asserted inside), a
// file that was replaced or moved is there under the old name or the new one, and removing a directory loses nothing
// that was moved out of it.
TEST(SimFileSystem, StaysATreeWhateverReachesTheDisk) {
  for (std::uint64_t seed = 0; seed < 2'000; ++seed) {
    Simulation sim(seed);
    FileSystem& files = sim.files();
    Random random(seed);
    const std::vector<std::string> directories = {"/", "/d", "/e"};
    files.make_directories("/d");
    files.make_directories("/e");
    files.make_directories("/away");
    write_durable_file(files, "/away/kept", "kept");
    write_durable_file(files, "/replaced", "old");
    for (int round = 0; round < 2; ++round) {
      for (int i = 0; i < 30; ++i) {
        const auto any_name = [&] {
          return directories[random.below(3)] + "/" + std::string(1, static_cast<char>('m' + random.below(3)));
        };
        const std::string a = any_name();
        switch (random.below(7)) {
          case 0:
          case 1: files.create(a); break;
          case 2: files.remove(a); break;
          case 3:
          case 4:
            if (files.stat(a)) files.rename(a, any_name());
            break;
          case 5: files.sync_directory(directories[random.below(3)]); break;
          default: files.publish("/replaced", std::string("new"));
        }
        if (i == 15 && files.stat("/away/kept")) {
          files.rename("/away/kept", "/e/kept");
          files.remove("/away");
        }
      }
      sim.crash_disk();
      const std::string replaced = content(files, "/replaced");
      ASSERT_TRUE(replaced == "old" || replaced == "new") << replaced;
      const bool here = files.stat("/away/kept").has_value();
      const bool there = files.stat("/e/kept").has_value();
      ASSERT_NE(here, there);
    }
  }
}

TEST(SimFileSystem, PublishShowsOldOrNewContentWholeWhereverTheMachineStops) {
  int old_seen = 0;
  int new_seen = 0;
  for (std::uint64_t seed = 0; seed < 2'000; ++seed) {
    Simulation sim(seed);
    FileSystem& files = sim.files();
    files.make_directories("/d");
    const std::string first(50, 'a');
    const std::string second(70, 'b');
    files.publish("/d/f", first);
    // A publication has 5 operations.
    sim.crash_after(sim.random().below(8));
    bool returned = false;
    try {
      sim.run([&] {
        files.publish("/d/f", second);
        returned = true;
      });
    } catch (const SimulatedCrash&) {
      ASSERT_FALSE(returned);
    }
    sim.crash_disk();
    const std::string now = content(files, "/d/f");
    ASSERT_TRUE(now == second || (now == first && !returned)) << seed << ": " << now;
    ++(now == first ? old_seen : new_seen);
  }
  EXPECT_GT(old_seen, 200);
  EXPECT_GT(new_seen, 200);
}

TEST(SimFileSystem, WritesFailIfAskedTo) {
  Simulation sim(1, {.write_failure = 0.5});
  FileSystem& files = sim.files();
  int failures = 0;
  for (int i = 0; i < 100; ++i) {
    const auto file = files.create("/f");
    if (fails([&] { file->append(std::string("0123456789")); })) {
      ++failures;
      EXPECT_TRUE(std::string("0123456789").starts_with(content(files, "/f")));
    } else {
      EXPECT_EQ(content(files, "/f"), "0123456789");
    }
  }
  EXPECT_GT(failures, 20);
  EXPECT_LT(failures, 80);
}

TEST(SimFileSystem, AFailedSyncKillsTheProcess) {
  Simulation sim(1, {.sync_failure = 1});
  EXPECT_THROW(sim.run([&] {
    sim.files().create("/f")->sync();
    ADD_FAILURE() << "went on after a failed sync";
  }),
               SimulatedCrash);
  EXPECT_THROW(sim.files().sync_directory("/"), SimulatedCrash);
  // Only the process is dead: what it wrote is in the cache.
  EXPECT_TRUE(sim.files().stat("/f").has_value());
}

TEST(SimFileSystem, OthersRunBetweenOperations) {
  std::set<std::string> seen;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    Simulation sim(seed);
    sim.run([&] {
      const auto thread = sim.spawn("writer", [&] {
        const auto file = sim.files().create("/f");
        for (const char* word : {"a", "b", "c"}) file->append(std::string(word));
      });
      for (int i = 0; i < 5; ++i) {
        if (const auto info = sim.files().stat("/f")) seen.insert(content(sim.files(), "/f"));
      }
      thread->join();
    });
  }
  EXPECT_EQ(seen, (std::set<std::string>{"", "a", "ab", "abc"}));
}

}  // namespace
}  // namespace sluice::testing
