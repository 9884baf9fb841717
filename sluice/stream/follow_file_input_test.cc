#include "sluice/stream/follow_file_input.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "sluice/testkit/hand_runtime.h"
#include "sluice/testkit/simulation.h"

namespace sluice::detail {
namespace {

NodePtr batch_of(Input& input, Engine& engine, const OperatorInfoPtr& info, Time time, InputInfo& told) {
  return input.rdd(engine, info, input.choose(engine, time, told), told);
}

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Lines = std::vector<std::string>;

// The lines that come out of a node, partition by partition.
std::vector<std::string> lines_of(Engine& engine, const NodePtr& node) {
  class Collect : public Pipe {
   public:
    explicit Collect(std::vector<std::string>& to) : to_(to) {}
    void push(const void* records, std::size_t count) override {
      const auto* lines = static_cast<const std::string_view*>(records);
      to_.insert(to_.end(), lines, lines + count);
    }
    void finish() override {}

   private:
    std::vector<std::string>& to_;
  };
  std::vector<std::string> lines;
  Collect pipe(lines);
  const std::vector<JobResult> results = engine.run({node});
  if (results[0].error != nullptr) std::rethrow_exception(results[0].error);
  for (const RestedPtr& records : results[0].partitions) records->push_all(pipe);
  return lines;
}

// A file of the real file system, followed batch by batch.
class FollowFileInputTest : public ::testing::TestWithParam<bool> {
 protected:
  FollowFileInputTest()
      : directory_(::testing::TempDir() + "/sluice-follow-" + std::to_string(system_runtime().random_seed())),
        path_(directory_ + "/log"),
        files_(runtime_.files()),
        engine_(std::make_shared<Engine>(runtime_, EngineOptions{.encode_tasks = GetParam()})),
        too_long_(engine_->next_id()) {
    files_.make_directories(directory_);
  }
  ~FollowFileInputTest() override { files_.remove_all(directory_); }

  void append(const std::string& text) { files_.open_append(path_)->append(text); }
  void start(const FollowFileOptions& options = {}) {
    input_ = make_follow_file_input(*engine_, path_, options, too_long_, 100);
    input_->start(*engine_, {});
  }
  NodePtr choose() {
    told_ = {};
    return batch_of(*input_, *engine_, engine_->info("follow", {}), time_ += 1s, told_);
  }
  Lines batch() { return lines_of(*engine_, choose()); }

  testing::HandRuntime runtime_;
  const std::string directory_;
  const std::string path_;
  FileSystem& files_;
  const std::shared_ptr<Engine> engine_;
  const std::uint64_t too_long_;
  std::unique_ptr<Input> input_;
  Time time_ = Time(1'700'000'000s);
  InputInfo told_;
};

INSTANTIATE_TEST_SUITE_P(Tasks, FollowFileInputTest, ::testing::Bool(),
                         [](const auto& param) { return param.param ? "encoded" : "direct"; });

TEST_P(FollowFileInputTest, TakesWholeLinesAsTheyAreAppended) {
  append("before\n");
  start();
  EXPECT_THAT(batch(), IsEmpty());
  append("one\r\ntwo\nthr");
  EXPECT_THAT(batch(), ElementsAre("one", "two"));
  EXPECT_EQ(told_.bytes, 9u);
  EXPECT_THAT(batch(), IsEmpty());
  append("ee\n");
  EXPECT_THAT(batch(), ElementsAre("three"));
}

TEST_P(FollowFileInputTest, GivesALineWholeWhoseBeginningStoodThereAtStart) {
  append("before\nbeg");
  start();
  append("inning\nnext\n");
  EXPECT_THAT(batch(), ElementsAre("beginning", "next"));
}

TEST_P(FollowFileInputTest, TakesWhatStandsThereWhenAskedTo) {
  append("before\n");
  start({.from_start = true});
  EXPECT_THAT(batch(), ElementsAre("before"));
}

TEST_P(FollowFileInputTest, WaitsForAMissingFile) {
  start();
  EXPECT_THAT(batch(), IsEmpty());
  EXPECT_THAT(told_.description, HasSubstr("waiting for the file"));
  append("one\n");
  EXPECT_THAT(batch(), ElementsAre("one"));
}

TEST_P(FollowFileInputTest, ReadsARotatedFileToItsEndAndThenTheNewOne) {
  append("");
  start();
  append("1\n");
  EXPECT_THAT(batch(), ElementsAre("1"));
  const auto writer = files_.open_append(path_);
  writer->append(std::string_view("2\n"));
  files_.rename(path_, path_ + ".1");
  EXPECT_THAT(batch(), ElementsAre("2"));
  writer->append(std::string_view("3\n"));
  append("5\n");
  EXPECT_THAT(batch(), ElementsAre("3", "5"));
  EXPECT_THAT(told_.description, HasSubstr("1 rotations"));
  writer->append(std::string_view("4\nlast"));
  append("6\n");
  EXPECT_THAT(batch(), ElementsAre("4", "last", "6"));
  writer->append(std::string_view("too late\n"));
  append("7\n");
  EXPECT_THAT(batch(), ElementsAre("7"));
}

TEST_P(FollowFileInputTest, ReadsARemovedFileToItsEnd) {
  append("");
  start();
  append("1\n");
  files_.remove(path_);
  EXPECT_THAT(batch(), ElementsAre("1"));
  append("2\n");
  EXPECT_THAT(batch(), ElementsAre("2"));
}

TEST_P(FollowFileInputTest, ReadsFilesThatWereRotatedWhileItWasBehindInOrder) {
  append("");
  start({.rotation_wait = 0s, .bytes_per_batch_max = 4});
  append("1\n2\n3\n4\n5\n");
  EXPECT_THAT(batch(), ElementsAre("1", "2"));
  files_.rename(path_, path_ + ".1");
  append("6\n");
  EXPECT_THAT(batch(), ElementsAre("3", "4"));
  files_.rename(path_, path_ + ".2");
  append("7\n");
  EXPECT_THAT(batch(), ElementsAre("5", "6"));
  EXPECT_THAT(batch(), ElementsAre("7"));
}

TEST_P(FollowFileInputTest, GoesOnInAFileThatComesBackUnderItsName) {
  append("");
  start();
  append("1\n");
  files_.rename(path_, path_ + ".1");
  EXPECT_THAT(batch(), ElementsAre("1"));
  append("other\n");
  EXPECT_THAT(batch(), ElementsAre("other"));
  files_.rename(path_ + ".1", path_);
  append("2\n");
  EXPECT_THAT(batch(), ElementsAre("2"));
}

TEST_P(FollowFileInputTest, BeginsAgainAfterATruncation) {
  append("");
  start();
  append("one\ntwo\n");
  EXPECT_THAT(batch(), ElementsAre("one", "two"));
  files_.open_append(path_)->truncate(0);
  append("3\n");
  EXPECT_THAT(batch(), ElementsAre("3"));
  EXPECT_THAT(told_.description, HasSubstr("1 truncations"));
}

TEST_P(FollowFileInputTest, SeesATruncationAfterWhichTheFileHasGrownPastTheOldPlace) {
  append("");
  start();
  append("one\n");
  EXPECT_THAT(batch(), ElementsAre("one"));
  files_.open_append(path_)->truncate(0);
  append("a line that is longer\n");
  EXPECT_THAT(batch(), ElementsAre("a line that is longer"));
}

TEST_P(FollowFileInputTest, CountsBytesThatAreCutOffBeforeTheTaskReadsThem) {
  append("");
  start();
  append("lost\n");
  const NodePtr node = choose();
  files_.open_append(path_)->truncate(0);
  append("found and longer\n");
  EXPECT_THAT(lines_of(*engine_, node), IsEmpty());
  EXPECT_THAT(batch(), ElementsAre("found and longer"));
  EXPECT_THAT(told_.description, HasSubstr("5 bytes cut off"));
}

TEST_P(FollowFileInputTest, ReadsTheSameBytesAgainAfterARotation) {
  append("");
  start();
  append("one\n");
  const NodePtr node = choose();
  files_.rename(path_, path_ + ".1");
  append("new\n");
  EXPECT_THAT(lines_of(*engine_, node), ElementsAre("one"));
  files_.remove(path_ + ".1");
  EXPECT_THAT(batch(), ElementsAre("new"));
  EXPECT_THAT(lines_of(*engine_, node), ElementsAre("one"));
}

TEST_P(FollowFileInputTest, SkipsAndCountsLinesOverTheLimitHoweverTheyCome) {
  append(std::string(200'000, 'b'));
  start({.line_bytes_max = 10, .bytes_per_batch_max = 70'000});
  const std::string part(100'000, 'x');
  EXPECT_THAT(batch(), IsEmpty());
  append(part);
  EXPECT_THAT(batch(), IsEmpty());
  append(part);
  EXPECT_THAT(batch(), IsEmpty());
  append("\n0123456789\r\n01234567890\n");
  EXPECT_THAT(batch(), IsEmpty());
  EXPECT_THAT(batch(), ElementsAre("0123456789"));
  EXPECT_EQ(engine_->accumulated(too_long_), 2);
  EXPECT_THAT(batch(), IsEmpty());
}

TEST_P(FollowFileInputTest, SplitsMuchTextIntoPartitions) {
  append("");
  start();
  Lines expected;
  std::string text;
  for (int i = 0; text.size() < (20 << 20); ++i) {
    expected.push_back(std::to_string(i) + std::string(10'000, 'x'));
    text += expected.back() + "\n";
  }
  append(text);
  EXPECT_EQ(batch(), expected);
  EXPECT_EQ(told_.blocks, 5u);
}

TEST_P(FollowFileInputTest, StartRefusesADirectory) {
  files_.make_directories(path_);
  try {
    start();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::not_readable);
    EXPECT_THAT(error.what(), HasSubstr(path_));
  }
}

// A writer appends lines in pieces, rotates as log rotation does (rename, go on writing to the old file for a while,
// make the new one), and truncates. The stream reads at virtual times. A line may be missing only when it was cut off
// before a batch had given it, and none comes twice or in parts.
TEST(FollowFileInputSimulation, LosesAndDoublesNothing) {
  int rotations = 0;
  int truncations = 0;
  for (std::uint64_t seed = 1; seed <= 400; ++seed) {
    SCOPED_TRACE(seed);
    testing::Simulation sim(seed, {.step_time_max = seed % 3 == 0 ? 5ms : 0ms});
    std::vector<std::string> seen;
    std::set<std::string> given;
    std::set<std::string> maybe_lost;
    std::vector<std::string> written;
    sim.run([&] {
      FileSystem& files = sim.files();
      const bool truncates = seed % 2 == 0;
      const auto engine = std::make_shared<Engine>(sim, EngineOptions{.encode_tasks = seed % 5 == 0});
      const FollowFileOptions options{.rotation_wait = 0s, .bytes_per_batch_max = 16 + sim.random().below(4'000)};
      const auto input = make_follow_file_input(*engine, "/log", options, 0, 8);
      input->start(*engine, {});
      std::uint64_t batches = 0;
      bool ended = false;
      const auto writer = sim.spawn("writer", [&] {
        auto file = files.create("/log");
        const auto append_line = [&] {
          std::string line = std::to_string(written.size());
          line.append(sim.random().below(40), 'x');
          written.push_back(line);
          line += '\n';
          const std::size_t cut = sim.random().chance(0.3) ? sim.random().below(line.size()) : 0;
          if (cut > 0) file->append(std::string_view(line).substr(0, cut));
          file->append(std::string_view(line).substr(cut));
        };
        for (int i = 0; i < 150; ++i) {
          append_line();
          const double action = sim.random().unit();
          if (action < 0.1) sim.wait_for(Duration(sim.random().below(30'000'000)));
          // Two rotations between two batches would hide a file: that no follower of a name can see.
          if (action > 0.95) {
            const std::uint64_t at = batches;
            while (batches < at + 2) sim.wait_for(1ms);
            files.rename("/log", "/log." + std::to_string(i));
            const std::uint64_t lines = sim.random().below(3);
            for (std::uint64_t l = 0; l < lines; ++l) append_line();
            file = files.create("/log");
            ++rotations;
          } else if (truncates && action > 0.9) {
            for (const std::string& line : written) {
              if (!given.contains(line)) maybe_lost.insert(line);
            }
            file->truncate(0);
            // While the call went on a batch may have been given some of them; and one that is being read is lost.
            ++truncations;
          }
        }
        ended = true;
      });
      Time time = sim.clock().now();
      const Time start = time;
      // A rotated file that is behind is finished before the newer ones, so the end is when two batches give nothing.
      for (int idle = 0; idle < 3;) {
        const bool last = ended;
        InputInfo told;
        const NodePtr node = batch_of(*input, *engine, engine->info("follow", {}), time += 10ms, told);
        const Lines lines = lines_of(*engine, node);
        for (const std::string& line : lines) {
          seen.push_back(line);
          given.insert(line);
        }
        ++batches;
        idle = last && told.bytes == 0 ? idle + 1 : 0;
        sim.wait_for(Duration(sim.random().below(20'000'000)));
        if (time - start > 3600s) break;
      }
      writer->join();
    });
    const std::set<std::string> known(written.begin(), written.end());
    std::set<std::string> once;
    for (const std::string& line : seen) {
      ASSERT_TRUE(known.contains(line)) << "not a line: " << line;
      ASSERT_TRUE(once.insert(line).second) << "twice: " << line;
    }
    for (const std::string& line : written) {
      ASSERT_TRUE(once.contains(line) || maybe_lost.contains(line)) << "lost: " << line;
    }
  }
  EXPECT_GT(rotations, 500);
  EXPECT_GT(truncations, 500);
}

}  // namespace
}  // namespace sluice::detail
