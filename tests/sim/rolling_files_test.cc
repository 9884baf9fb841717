// Rolling files under a whole engine that is killed at any step, on a disk that loses what was not synced or that
// fails: what the manifest names must hold each record once, batch by batch.
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/runtime/checksum.h"
#include "sluice/sluice.h"
#include "sluice/testkit/mortal_machine.h"

namespace sluice::testing {
namespace {

using namespace std::chrono_literals;

constexpr int files_in_all = 12;
constexpr Duration interval = 100ms;
const std::string out = "/data";

std::string line_of(int file, int line) { return "file " + std::to_string(file) + " line " + std::to_string(line); }
int lines_of(int file) { return file % 4 * 3; }

/// The program under test, until it has made a batch of each input file, and two more.
void live(Runtime& runtime, FileSystem& disk, std::uint64_t seed, Random& random, FaultyFileSystem& faulty) {
  disk.make_directories("/in");
  Context ctx{
      {.app = "rolling", .master = "local[2]", .partitions = 2, .spill_directory = "/spill", .runtime = &runtime}};
  StreamingContext ssc(ctx, {.batch = interval,
                             .checkpoint = "/ckpt",
                             .checkpoint_interval = interval * static_cast<int>(1 + seed % 5),
                             .output_tries = 2,
                             .failed_output = seed % 2 == 0 ? FailedOutput::go_on : FailedOutput::stop});
  ssc.text_file_stream("/in", {.existing_files = true})
      .save_to(rolling_files<std::string_view>(out, {.bytes = 150, .age = interval * 5, .suffix = ".txt"}))
      .name("lines");
  ssc.start();
  for (int file = 0; file < files_in_all; ++file) {
    const std::string path = "/in/" + std::to_string(100 + file);
    std::string text;
    for (int line = 0; line < lines_of(file); ++line) text += line_of(file, line) + "\n";
    if (!disk.stat(path).has_value()) disk.publish(path, text);
    disk.sync_directory("/in");
    if (random.chance(0.7)) {
      ASSERT_FALSE(ssc.await_termination(std::chrono::milliseconds(random.below(200))));
    }
  }
  // What is owed comes later, when the disk is well again.
  faulty.mend();
  ASSERT_FALSE(ssc.await_termination(5s));
  ssc.stop({.graceful = true});
  ssc.await_termination();
}

/// All lines, each once; those of a file in order. A hidden name is nothing that anyone sees.
void expect_right(FileSystem& files) {
  std::vector<std::string> expected;
  for (int file = 0; file < files_in_all; ++file) {
    for (int line = 0; line < lines_of(file); ++line) expected.push_back(line_of(file, line));
  }
  std::vector<std::string> lines;
  std::set<std::string> in_manifest;
  for (const RollingFile& file : list_rolling_files(out, files)) {
    const std::string content = read_file(files, file.path);
    ASSERT_EQ(crc32c(content), file.checksum) << file.path;
    in_manifest.insert(file.path);
    for (std::size_t at = 0; at < content.size();) {
      const std::size_t end = content.find('\n', at);
      ASSERT_NE(end, content.npos) << file.path << " ends within a line";
      lines.push_back(content.substr(at, end - at));
      at = end + 1;
    }
  }
  std::map<std::string, int> last;
  for (const std::string& line : lines) {
    const std::size_t end = line.find(" line ");
    ASSERT_NE(end, line.npos) << line;
    const int number = std::stoi(line.substr(end + 6));
    int& next = last[line.substr(0, end)];
    ASSERT_EQ(number, next) << line << " is not where it should be";
    next = number + 1;
  }
  std::sort(lines.begin(), lines.end());
  std::sort(expected.begin(), expected.end());
  ASSERT_EQ(lines, expected);
  const std::vector<FileInfo> all = files.list(out).value();
  for (const FileInfo& file : all) {
    ASSERT_TRUE(in_manifest.contains(file.path) || base_name(file.path) == ".sluice") << file.path;
  }
}

std::uint64_t ends = 0;
std::uint64_t faults = 0;

void survive(std::uint64_t seed, Ending ending) {
  MortalMachine machine(seed);
  Simulation& sim = machine.sim;
  FaultyFileSystem& disk = machine.disk;
  Random random(seed * 77 + 1);
  bool done = false;
  for (std::uint64_t left = 1 + random.below(6); !done; left -= left > 0) {
    disk.mend();
    const std::uint64_t passes = 1 + random.below(1 << (1 + random.below(5)));
    if (left > 0 && ending == Ending::of_the_disk) {
      constexpr FileOperation operations[] = {FileOperation::append,     FileOperation::append, FileOperation::sync,
                                              FileOperation::rename,     FileOperation::list,   FileOperation::create,
                                              FileOperation::rename_new, FileOperation::info,   FileOperation::truncate,
                                              FileOperation::open_append};
      constexpr FileFault kinds[] = {FileFault::disk_full, FileFault::io_error, FileFault::short_write};
      disk.fail({.operation = operations[random.below(std::size(operations))],
                 .path_part = out,
                 .nth = 1 + random.below(1 << random.below(5)),
                 .times = 1 + random.below(6),
                 .fault = kinds[random.below(std::size(kinds))]});
    } else if (left > 0 && ending == Ending::at_a_kill_point) {
      machine.kill_at_point(passes, [](std::string_view place) {
        return place.starts_with("sink.") || place.starts_with("driver.") || place.starts_with("recovery.");
      });
    } else if (left > 0) {
      sim.crash_after(1 + random.below(1 << (5 + random.below(9))));
    }
    switch (machine.run([&] { live(machine.on_faulty_disk, sim.files(), seed, random, disk); })) {
      case MortalMachine::End::done: done = true; break;
      case MortalMachine::End::killed:
        ++ends;
        if (random.chance(0.7)) sim.crash_disk();
        break;
      case MortalMachine::End::disk_failed:
        ++ends;
        ASSERT_EQ(ending, Ending::of_the_disk);
        if (random.chance(0.3)) sim.crash_disk();
        break;
    }
    if (::testing::Test::HasFailure()) return;
  }
  faults += disk.failures();
  disk.mend();
  sim.crash_after(std::uint64_t{1} << 40);
  sim.run([&] { expect_right(sim.files()); });
}

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::uint64_t seeds = 15;
#else
constexpr std::uint64_t seeds = 1000;
#endif

void survive_all(Ending ending) {
  ends = faults = 0;
  const auto [first, end] = seeds_to_run(seeds);
  for (std::uint64_t seed = first; seed < end; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    survive(seed, ending);
    if (::testing::Test::HasFailure()) return;
  }
  std::printf("%llu ends, %llu faults\n", static_cast<unsigned long long>(ends),
              static_cast<unsigned long long>(faults));
  EXPECT_GT(ending == Ending::of_the_disk ? faults : ends, end - first);
}

TEST(RollingFilesOfAStream, HaveEachRecordOnceWhenKilledAtAnyStep) { survive_all(Ending::at_any_step); }
TEST(RollingFilesOfAStream, HaveEachRecordOnceWhenKilledAtAnyKillPoint) { survive_all(Ending::at_a_kill_point); }
TEST(RollingFilesOfAStream, HaveEachRecordOnceWhenTheDiskFails) { survive_all(Ending::of_the_disk); }

}  // namespace
}  // namespace sluice::testing
