#include "sluice/api/rolling_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "sluice/api/rolling_directory.h"
#include "sluice/runtime/checksum.h"
#include "sluice/runtime/kill_point.h"
#include "sluice/testkit/mortal_machine.h"
#include "sluice/testkit/thrown.h"

namespace sluice::detail {
namespace {

using namespace std::chrono_literals;
using testing::code_of;
using ::testing::ElementsAre;
using testing::Ending;
using testing::error_of;
using testing::FaultyFileSystem;
using testing::FaultyRuntime;
using testing::FileFault;
using testing::FileOperation;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::MortalMachine;
using testing::seeds_to_run;
using testing::Simulation;

const std::string directory = "/data/lines";

RollingDirectory::Options small_files(std::uint64_t bytes = 20) {
  return {.path = directory, .bytes = bytes, .age = 10min, .suffix = ".txt", .kind = "text"};
}

SinkStart start_of(Runtime& runtime, std::uint64_t epoch, std::string said = {}) {
  return {"app", "lines", epoch, std::move(said), runtime};
}

/// Names and contents of what `ls` shows, in its order.
std::vector<std::pair<std::string, std::string>> shown(FileSystem& files) {
  std::vector<std::pair<std::string, std::string>> all;
  for (const FileInfo& file : files.list(directory).value_or(std::vector<FileInfo>{})) {
    const std::string name(base_name(file.path));
    if (!name.starts_with('.')) all.emplace_back(name, read_file(files, file.path));
  }
  return all;
}

std::vector<std::string> hidden(FileSystem& files) {
  std::vector<std::string> all;
  for (const FileInfo& file : files.list(directory).value_or(std::vector<FileInfo>{})) {
    const std::string name(base_name(file.path));
    if (name.starts_with('.') && !file.is_directory) all.push_back(name);
  }
  return all;
}

/// What the manifest's files hold, one after the other, each as the manifest says.
std::string finished(FileSystem& files) {
  std::string all;
  for (const RollingFile& file : list_rolling_files(directory, files)) {
    const std::string content = read_file(files, file.path);
    EXPECT_EQ(content.size(), file.bytes) << file.path;
    EXPECT_EQ(crc32c(content), file.checksum) << file.path;
    all += content;
  }
  return all;
}

class RollingFilesTest : public ::testing::Test {
 protected:
  void run(const std::function<void()>& body) { sim_.run(body); }
  FileSystem& files() { return sim_.files(); }
  Simulation sim_{1};
};

TEST_F(RollingFilesTest, AFileIsFinishedWhenItIsLargeEnough) {
  run([&] {
    RollingDirectory out(small_files());
    out.start(start_of(sim_, 3));
    out.commit({"first line\n", "second line\n"});  // 23 bytes
    EXPECT_THAT(shown(files()), IsEmpty());
    EXPECT_THAT(hidden(files()), ElementsAre(".000000000001-3.txt.open"));
    out.commit({"third\n"});
    using Named = std::pair<std::string, std::string>;
    EXPECT_THAT(shown(files()), ElementsAre(Named("000000000001-3.txt", "first line\nsecond line\n")));
    EXPECT_THAT(hidden(files()), ElementsAre(".000000000002-3.txt.open"));
    out.close();
    EXPECT_THAT(shown(files()), ElementsAre(Named("000000000001-3.txt", "first line\nsecond line\n"),
                                            Named("000000000002-3.txt", "third\n")));
    EXPECT_THAT(hidden(files()), IsEmpty());
    EXPECT_EQ(finished(files()), "first line\nsecond line\nthird\n");
  });
}

TEST_F(RollingFilesTest, AFileIsFinishedByAnyBatchWhenItIsOldEnough) {
  run([&] {
    RollingDirectory out(small_files(1'000'000));
    out.start(start_of(sim_, 1));
    out.commit({"a\n"});
    sim_.wait_for(10min - 1s);
    out.commit({});
    EXPECT_THAT(shown(files()), IsEmpty());
    sim_.wait_for(1s);
    out.commit({"", ""});
    EXPECT_EQ(finished(files()), "a\n");
    EXPECT_EQ(shown(files()).size(), 1u);
  });
}

TEST_F(RollingFilesTest, TheAgeOfAFileIsKeptOverARestart) {
  run([&] {
    std::string said;
    {
      RollingDirectory out(small_files(1'000'000));
      out.start(start_of(sim_, 1));
      said = out.commit({"a\n"});
    }
    sim_.wait_for(9min);
    RollingDirectory out(small_files(1'000'000));
    out.start(start_of(sim_, 2, said));
    out.commit({"b\n"});
    sim_.wait_for(1min);
    out.commit({});
    EXPECT_EQ(finished(files()), "a\nb\n");
  });
}

TEST_F(RollingFilesTest, EmptyBatchesWriteNothing) {
  FaultyFileSystem counting(sim_.files());
  FaultyRuntime runtime(sim_, counting);
  run([&] {
    RollingDirectory out(small_files());
    out.start(start_of(runtime, 1));
    const std::uint64_t created = counting.count(FileOperation::create);
    EXPECT_EQ(out.commit({}), "");
    EXPECT_EQ(out.commit({"", ""}), "");
    out.close();
    EXPECT_EQ(counting.count(FileOperation::create), created);
    EXPECT_THAT(shown(files()), IsEmpty());
    EXPECT_THAT(hidden(files()), IsEmpty());
  });
}

TEST_F(RollingFilesTest, ARestartCutsOffWhatIsNotNotedAndGoesOn) {
  run([&] {
    std::string noted;
    {
      RollingDirectory out(small_files());
      out.start(start_of(sim_, 1));
      noted = out.commit({"one\n"});
      out.commit({"never noted\n"});
    }
    RollingDirectory out(small_files());
    out.start(start_of(sim_, 2, noted));
    EXPECT_THAT(hidden(files()), ElementsAre(".000000000001-2.txt.open"));
    out.commit({"two\n"});
    out.close();
    EXPECT_EQ(finished(files()), "one\ntwo\n");
  });
}

TEST_F(RollingFilesTest, ARestartRemovesAFileThatWasNeverNoted) {
  run([&] {
    {
      RollingDirectory out(small_files());
      out.start(start_of(sim_, 1));
      out.commit({"never noted\n"});
    }
    RollingDirectory out(small_files());
    out.start(start_of(sim_, 2));
    EXPECT_THAT(hidden(files()), IsEmpty());
    out.commit({"one\n"});
    out.close();
    EXPECT_EQ(finished(files()), "one\n");
  });
}

TEST_F(RollingFilesTest, SeveralRestartsBeforeTheNextNoteFindTheFile) {
  run([&] {
    std::string noted;
    for (std::uint64_t epoch = 1; epoch <= 5; ++epoch) {
      RollingDirectory out(small_files());
      out.start(start_of(sim_, epoch, noted));
      if (epoch == 1) noted = out.commit({"one\n"});
    }
    RollingDirectory out(small_files());
    out.start(start_of(sim_, 6, noted));
    out.close();  // finished, and the journal still says its first name
    EXPECT_EQ(finished(files()), "one\n");
    for (std::uint64_t epoch = 7; epoch <= 9; ++epoch) {
      RollingDirectory again(small_files());
      again.start(start_of(sim_, epoch, noted));
      again.commit({});
      EXPECT_EQ(finished(files()), "one\n");
    }
  });
}

TEST_F(RollingFilesTest, ABatchThatFailedLeavesNothingBehind) {
  FaultyFileSystem faulty(sim_.files());
  FaultyRuntime runtime(sim_, faulty);
  for (const FileFault fault : {FileFault::disk_full, FileFault::io_error, FileFault::short_write}) {
    run([&] {
      faulty.remove_all(directory);
      RollingDirectory out(small_files(1'000'000));
      out.start(start_of(runtime, 1));
      faulty.fail({.operation = FileOperation::append, .path_part = ".open", .fault = fault});
      EXPECT_EQ(code_of([&] { out.commit({"the first\n"}); }), Code::io_failed);
      out.commit({"one\n"});
      faulty.fail({.operation = FileOperation::append, .path_part = ".open", .nth = 2, .fault = fault});
      EXPECT_EQ(code_of([&] { out.commit({"two, ", "in two parts\n"}); }), Code::io_failed);
      out.commit({"three\n"});
      faulty.fail({.operation = FileOperation::append, .path_part = ".open", .fault = fault});
      EXPECT_EQ(code_of([&] { out.commit({"four\n"}); }), Code::io_failed);
      out.close();
      EXPECT_EQ(finished(files()), "one\nthree\n");
    });
  }
  EXPECT_EQ(faulty.failures(), 9u);
}

TEST_F(RollingFilesTest, FinishingAFileThatFailsIsTriedAgain) {
  FaultyFileSystem faulty(sim_.files());
  FaultyRuntime runtime(sim_, faulty);
  for (const FileOperation operation :
       {FileOperation::create, FileOperation::append, FileOperation::rename_new, FileOperation::rename}) {
    SCOPED_TRACE(static_cast<int>(operation));
    run([&] {
      faulty.remove_all(directory);
      RollingDirectory out(small_files());
      out.start(start_of(runtime, 1));
      out.commit({"a line that fills a file\n"});
      const std::string part = operation == FileOperation::rename ? ".txt" : "manifest";
      faulty.fail({.operation = operation, .path_part = part});
      EXPECT_EQ(code_of([&] { out.commit({"next\n"}); }), Code::io_failed);
      out.commit({"next\n"});
      out.close();
      EXPECT_EQ(finished(files()), "a line that fills a file\nnext\n");
      EXPECT_EQ(shown(files()).size(), 2u);
    });
  }
  EXPECT_EQ(faulty.failures(), 4u);
}

TEST_F(RollingFilesTest, AnOlderRunCannotFinishAFileAnyMore) {
  run([&] {
    RollingDirectory old(small_files());
    old.start(start_of(sim_, 1));
    const std::string noted = old.commit({"a line that fills a file\n"});
    RollingDirectory replacing(small_files());
    replacing.start(start_of(sim_, 2, noted));
    const auto error = error_of([&] { old.commit({"of the old one\n"}); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->code(), Code::fenced);
    EXPECT_THAT(error->details().why, HasSubstr("epoch 2"));
    EXPECT_EQ(code_of([&] { old.close(); }), Code::fenced);
    EXPECT_EQ(code_of([&] { RollingDirectory(small_files()).start(start_of(sim_, 1, noted)); }), Code::fenced);
    replacing.commit({"of the new one\n"});
    replacing.close();
    EXPECT_EQ(finished(files()), "a line that fills a file\nof the new one\n");
  });
}

TEST_F(RollingFilesTest, ADirectoryIsOfOneOutput) {
  run([&] {
    RollingDirectory(small_files()).start(start_of(sim_, 1));
    SinkStart other = start_of(sim_, 2);
    other.output = "errors";
    EXPECT_THAT(error_of([&] { RollingDirectory(small_files()).start(other); })->what(),
                HasSubstr("files of output \"lines\" of application \"app\""));
    RollingDirectory::Options records = small_files();
    records.kind = rolling_kind_of_records("i32");
    EXPECT_EQ(code_of([&] { RollingDirectory(records).start(start_of(sim_, 2)); }), Code::bad_argument);
  });
}

TEST_F(RollingFilesTest, WhatIsNotedAndNotThereIsToldAtTheStart) {
  run([&] {
    std::string noted;
    {
      RollingDirectory out(small_files());
      out.start(start_of(sim_, 1));
      noted = out.commit({"one line\n"});
    }
    const std::string path = directory + "/.000000000001-1.txt.open";
    files().open_append(path)->truncate(3);
    EXPECT_THAT(error_of([&] { RollingDirectory(small_files()).start(start_of(sim_, 2, noted)); })->what(),
                HasSubstr("it ends after 3 bytes"));
    files().open_append(path)->append("xxxxxx");
    EXPECT_THAT(error_of([&] { RollingDirectory(small_files()).start(start_of(sim_, 2, noted)); })->what(),
                HasSubstr("its checksum is wrong"));
    files().remove(path);
    EXPECT_THAT(error_of([&] { RollingDirectory(small_files()).start(start_of(sim_, 2, noted)); })->what(),
                HasSubstr("no such file"));
  });
}

TEST_F(RollingFilesTest, FilesThatSomebodyRemovesAreForgottenAtTheNextStart) {
  run([&] {
    std::string noted;
    {
      RollingDirectory out(small_files());
      out.start(start_of(sim_, 1));
      for (const char* line : {"a line that fills a file\n", "and another one that does\n", "and a third one, too\n"}) {
        noted = out.commit({line});
      }
      out.close();
    }
    files().remove(directory + "/000000000001-1.txt");
    files().remove(directory + "/000000000003-1.txt");  // what the journal has noted last
    RollingDirectory out(small_files());
    out.start(start_of(sim_, 2, noted));
    EXPECT_EQ(finished(files()), "and another one that does\n");
    out.commit({"more\n"});
    out.close();
    EXPECT_EQ(finished(files()), "and another one that does\nmore\n");
  });
}

TEST_F(RollingFilesTest, DamagedManifestsAreNamed) {
  RollingManifest manifest{.number = 7, .kind = "text", .app = "app", .output = "lines", .epoch = 3};
  manifest.files.push_back({"000000000001-3.txt", 100, 5});
  const std::string bytes = encode_rolling_manifest(manifest);
  const RollingManifest again = decode_rolling_manifest(7, bytes);
  EXPECT_EQ(again.files.at(0).name, "000000000001-3.txt");
  EXPECT_EQ(encode_rolling_manifest(again), bytes);
  run([&] {
    files().make_directories(directory + "/.sluice");
    const std::string path = directory + "/.sluice/manifest-000000000007";
    for (std::size_t at = 0; at < bytes.size(); ++at) {
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(damaged[at] ^ 4);
      files().publish(path, damaged);
      const auto error = error_of([&] { list_rolling_files(directory, files()); });
      ASSERT_TRUE(error) << at;
      ASSERT_THAT(error->what(), HasSubstr(path)) << at;
      files().publish(path, bytes.substr(0, at));
      ASSERT_TRUE(error_of([&] { list_rolling_files(directory, files()); })) << at;
    }
  });
}

struct Hit {
  std::string path;
  int status = 0;
  friend bool operator==(const Hit&, const Hit&) = default;
};

TEST_F(RollingFilesTest, RecordsComeBackAsTheyWere) {
  run([&] {
    RollingOutput out(directory, {.bytes = 30}, rolling_kind_of_records(schema_of<Hit>()));
    out.start(start_of(sim_, 1));
    std::vector<Hit> all;
    for (int batch = 0; batch < 5; ++batch) {
      std::vector<std::string> parts(2);
      for (int i = 0; i < 4; ++i) {
        all.push_back({"/" + std::string(static_cast<std::size_t>(i), 'a'), batch * 10 + i});
        AsRecordFrame{}(all.back(), parts[static_cast<std::size_t>(i) / 2]);
      }
      out.commit(parts);
    }
    EXPECT_THAT(read_rolling_files<Hit>(directory, files()), ::testing::SizeIs(16));  // the last ones are not finished
    out.close();
    EXPECT_EQ(read_rolling_files<Hit>(directory, files()), all);
    EXPECT_EQ(code_of([&] { read_rolling_files<int>(directory, files()); }), Code::bad_argument);

    const std::string path = list_rolling_files(directory, files()).at(1).path;
    std::string content = read_file(files(), path);
    content[content.size() / 2] ^= 1;
    files().publish(path, content);
    EXPECT_THAT(error_of([&] { read_rolling_files<Hit>(directory, files()); })->what(), HasSubstr(path));
  });
}

TEST_F(RollingFilesTest, OptionsOutOfRangeAreRefused) {
  EXPECT_EQ(code_of([] { rolling_files("", {}); }), Code::bad_argument);
  EXPECT_EQ(code_of([] { rolling_files("/x", {.bytes = 0}); }), Code::bad_argument);
  EXPECT_EQ(code_of([] { rolling_files("/x", {.age = 0s}); }), Code::bad_argument);
  EXPECT_EQ(code_of([] { rolling_files("/x", {.suffix = "/.txt"}); }), Code::bad_argument);
}

// ---- Crashes, failing disks and other drivers, with a journal that keeps what a driver's does

constexpr int batches_in_all = 12;

/// The journal: what survives all crashes.
struct Noted {
  std::uint64_t epoch = 0;
  std::string said;
  int next = 0;  // the first batch that is neither done nor owed
  std::set<int> owed;
};

std::vector<std::string> parts_of(int batch) {
  std::vector<std::string> parts;
  if (batch % 5 == 4) return parts;  // empty
  for (int p = 0; p < 1 + batch % 3; ++p) {
    parts.emplace_back();
    for (int i = 0; i < batch % 4 + p; ++i) {
      parts.back() +=
          "batch " + std::to_string(batch) + " record " + std::to_string(p) + "." + std::to_string(i) + "\n";
    }
  }
  return parts;
}

std::string whole_of(int batch) {
  std::string all;
  for (const std::string& part : parts_of(batch)) all += part;
  return all;
}

/// Each batch's records once, together and in order, batches in any order.
void expect_all_once(FileSystem& files) {
  std::string content = finished(files);
  for (int batch = 0; batch < batches_in_all; ++batch) {
    const std::string expected = whole_of(batch);
    const std::size_t at = content.find(expected);
    ASSERT_NE(at, content.npos) << "batch " << batch << " is not in\n" << content;
    content.erase(at, expected.size());
  }
  ASSERT_EQ(content, "") << "is there twice, or was never to be";
}

/// Whoever does `ls` sees whole files only, which the manifest has.
void expect_whole_files(FileSystem& files) {
  std::map<std::string, RollingFile> in_manifest;
  for (const RollingFile& file : list_rolling_files(directory, files))
    in_manifest[std::string(base_name(file.path))] = file;
  for (const auto& [name, content] : shown(files)) {
    ASSERT_TRUE(in_manifest.contains(name)) << name;
    ASSERT_EQ(content.size(), in_manifest[name].bytes) << name;
    ASSERT_EQ(crc32c(content), in_manifest[name].checksum) << name;
  }
}

/// One run of a driver. A batch that fails is tried again, then stops the stream or is owed. False when it has been
/// replaced.
void live(Runtime& runtime, Noted& noted, Random& random, const std::function<void()>& between) {
  const std::uint64_t epoch = ++noted.epoch;  // fences the run before
  RollingDirectory out(small_files(60));
  out.start(start_of(runtime, epoch, noted.said));
  const auto commit = [&](int batch) {
    between();
    const std::string said = out.commit(parts_of(batch));
    between();
    if (noted.epoch != epoch) throw Error(Code::fenced, {});
    if (!said.empty()) noted.said = said;
  };
  const bool goes_on = random.chance(0.5);
  while (noted.next < batches_in_all || !noted.owed.empty()) {
    if (!noted.owed.empty() && (noted.next == batches_in_all || random.chance(0.5))) {
      const int batch = *noted.owed.begin();
      commit(batch);
      noted.owed.erase(batch);
      continue;
    }
    const int batch = noted.next;
    try {
      commit(batch);
    } catch (const Error& error) {
      if (error.code() == Code::fenced || !goes_on) throw;
      if (random.chance(0.5)) {
        commit(batch);
      } else {
        noted.owed.insert(batch);
      }
    }
    ++noted.next;
  }
  out.close();
}

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::uint64_t seeds = 60;
#else
constexpr std::uint64_t seeds = 2000;
#endif

std::uint64_t ends = 0;

void survive(std::uint64_t seed, Ending ending) {
  MortalMachine machine(seed);
  Simulation& sim = machine.sim;
  FaultyFileSystem& disk = machine.disk;
  Runtime& runtime = ending == Ending::of_the_disk ? static_cast<Runtime&>(machine.on_faulty_disk) : sim;
  Random random(seed * 31 + 7);
  Noted noted;
  bool done = false;
  for (std::uint64_t left = 1 + random.below(8); !done; left -= left > 0) {
    disk.mend();
    const std::uint64_t passes = 1 + random.below(20);
    if (left > 0 && ending == Ending::of_the_disk) {
      constexpr FileOperation operations[] = {
          FileOperation::append,  FileOperation::append,   FileOperation::sync,       FileOperation::create,
          FileOperation::rename,  FileOperation::open,     FileOperation::list,       FileOperation::rename_new,
          FileOperation::stat,    FileOperation::info,     FileOperation::remove,     FileOperation::sync_directory,
          FileOperation::read_at, FileOperation::truncate, FileOperation::open_append};
      constexpr FileFault faults[] = {FileFault::disk_full, FileFault::io_error, FileFault::short_write};
      disk.fail({.operation = operations[random.below(std::size(operations))],
                 .nth = 1 + random.below(1 << random.below(5)),
                 .times = 1 + random.below(4),
                 .fault = faults[random.below(3)]});
    } else if (left > 0 && ending == Ending::at_a_kill_point) {
      machine.kill_at_point(passes);
    } else if (left > 0) {
      sim.crash_after(1 + random.below(1 << (2 + random.below(8))));
    }
    switch (machine.run([&] { live(runtime, noted, random, [&] { sim.pause(); }); })) {
      case MortalMachine::End::done: done = true; break;
      case MortalMachine::End::killed:
        ++ends;
        if (random.chance(0.6)) sim.crash_disk();
        break;
      case MortalMachine::End::disk_failed:
        ++ends;
        ASSERT_EQ(ending, Ending::of_the_disk);
        if (random.chance(0.3)) sim.crash_disk();
        break;
    }
    disk.mend();
    sim.crash_after(std::uint64_t{1} << 40);
    sim.run([&] { expect_whole_files(sim.files()); });
    if (::testing::Test::HasFailure()) return;
  }
  sim.run([&] {
    expect_all_once(sim.files());
    EXPECT_THAT(hidden(sim.files()), IsEmpty());
    std::size_t manifests = 0;
    const std::vector<FileInfo> listed = sim.files().list(directory + "/.sluice").value();
    for (const FileInfo& file : listed) {
      manifests += base_name(file.path).starts_with("manifest-");
    }
    EXPECT_LE(manifests, 2u);
  });
}

void survive_all(Ending ending) {
  ends = 0;
  const auto [first, end] = seeds_to_run(seeds);
  for (std::uint64_t seed = first; seed < end; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    survive(seed, ending);
    if (::testing::Test::HasFailure()) return;
  }
  EXPECT_GT(ends, end - first);
}

TEST(RollingFilesSimulated, NothingIsLostOrDoubledWhenKilledAtAnyStep) { survive_all(Ending::at_any_step); }
TEST(RollingFilesSimulated, NothingIsLostOrDoubledWhenKilledAtAnyKillPoint) { survive_all(Ending::at_a_kill_point); }
TEST(RollingFilesSimulated, NothingIsLostOrDoubledWhenTheDiskFails) { survive_all(Ending::of_the_disk); }

// Several drivers at once, each of which believes it is the only one until it is told otherwise.
TEST(RollingFilesSimulated, NothingIsLostOrDoubledByDriversThatHaveBeenReplaced) {
  std::uint64_t replaced = 0;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Simulation sim(seed);
    Noted noted;
    bool done = false;
    std::string wrong;
    sim.run([&] {
      std::vector<std::unique_ptr<Thread>> drivers;
      for (int i = 0; i < 3; ++i) {
        drivers.push_back(sim.spawn("driver", [&, i] {
          Random random(seed * 10 + static_cast<std::uint64_t>(i));
          try {
            for (std::uint64_t left = random.below(200); left > 0 && i > 0; --left) sim.pause();
            live(sim, noted, random, [&] {
              for (std::uint64_t left = random.below(4); left > 0; --left) sim.pause();
            });
            done = true;
          } catch (const Error& error) {
            if (error.code() != Code::fenced) wrong = error.what();
            ++replaced;
          }
        }));
      }
      for (const auto& driver : drivers) driver->join();
    });
    ASSERT_EQ(wrong, "");
    // All may have been replaced by one that was ended by the journal, as it is when the last one was at its end.
    if (!done) {
      sim.run([&] {
        Random random(seed);
        live(sim, noted, random, [] {});
      });
    }
    sim.run([&] {
      expect_whole_files(sim.files());
      expect_all_once(sim.files());
    });
    if (::testing::Test::HasFailure()) return;
  }
  EXPECT_GT(replaced, seeds);
}

}  // namespace
}  // namespace sluice::detail
