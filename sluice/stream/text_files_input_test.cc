#include "sluice/stream/text_files_input.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <map>
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

constexpr Time zero = Time(1'700'000'000s);

// A directory of the real file system and an input that watches it, asked batch by batch.
class TextFilesInputTest : public ::testing::Test {
 protected:
  TextFilesInputTest()
      : directory_(::testing::TempDir() + "/sluice-text-files-" + std::to_string(system_runtime().random_seed())),
        files_(runtime_.files()),
        engine_(std::make_shared<Engine>(runtime_, EngineOptions{.encode_tasks = true})),
        too_long_(engine_->next_id()) {
    files_.make_directories(directory_);
  }
  ~TextFilesInputTest() override { files_.remove_all(directory_); }

  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  void write(const std::string& name, const std::string& text) { files_.create(path(name))->append(text); }
  void append(const std::string& name, const std::string& text) { files_.open_append(path(name))->append(text); }
  void start(const TextFilesOptions& options = {}) {
    input_ = make_text_files_input(*engine_, directory_, options, too_long_, 100);
    input_->start(*engine_, {});
  }
  NodePtr choose() {
    told_ = {};
    return batch_of(*input_, *engine_, engine_->info("files", {}), time_ += 1s, told_);
  }
  Lines batch() { return lines_of(*engine_, choose()); }

  testing::HandRuntime runtime_;
  const std::string directory_;
  FileSystem& files_;
  const std::shared_ptr<Engine> engine_;
  const std::uint64_t too_long_;
  std::unique_ptr<Input> input_;
  Time time_ = zero;
  InputInfo told_;
};

TEST_F(TextFilesInputTest, TakesNewFilesInTheOrderOfTheirNamesOnce) {
  start();
  EXPECT_THAT(batch(), IsEmpty());
  write("b", "b1\nb2\r\n");
  write("a", "a1");
  write("_c", "c\n");
  EXPECT_THAT(batch(), ElementsAre("c", "a1", "b1", "b2"));
  EXPECT_EQ(told_.description, "_c, a, b");
  EXPECT_EQ(told_.bytes, 11u);
  EXPECT_EQ(told_.blocks, 3u);
  EXPECT_EQ(told_.records, 0u);
  EXPECT_THAT(batch(), IsEmpty());
  EXPECT_EQ(told_.blocks, 0u);
}

TEST_F(TextFilesInputTest, LeavesOutFilesThatLieThereAtStart) {
  write("old", "old\n");
  start();
  write("new", "new\n");
  EXPECT_THAT(batch(), ElementsAre("new"));
}

TEST_F(TextFilesInputTest, TakesExistingFilesWhenAskedTo) {
  write("old", "old\n");
  start({.existing_files = true});
  EXPECT_THAT(batch(), ElementsAre("old"));
  EXPECT_THAT(batch(), IsEmpty());
}

TEST_F(TextFilesInputTest, LeavesOutHiddenFilesDirectoriesEmptyFilesAndLinksToNowhere) {
  start();
  write(".hidden", "x\n");
  files_.make_directories(path("directory"));
  write("directory/inside", "x\n");
  write("empty", "");
  EXPECT_THAT(batch(), IsEmpty());
  append("empty", "not any more\n");
  EXPECT_THAT(batch(), ElementsAre("not any more"));
}

TEST_F(TextFilesInputTest, TakesAnOldFileThatIsMovedIn) {
  write("../sluice-moved-in", "old times\n");
  start();
  batch();
  files_.rename(directory_ + "/../sluice-moved-in", path("moved"));
  EXPECT_THAT(batch(), ElementsAre("old times"));
}

TEST_F(TextFilesInputTest, TakesAnotherFileUnderATakenName) {
  start();
  write("a", "one\n");
  EXPECT_THAT(batch(), ElementsAre("one"));
  write(".a", "two\n");
  files_.rename(path(".a"), path("a"));
  EXPECT_THAT(batch(), ElementsAre("two"));
}

TEST_F(TextFilesInputTest, CountsTheChangeOfATakenFileOnceAndNeverReadsIt) {
  start();
  write("a", "one\n");
  EXPECT_THAT(batch(), ElementsAre("one"));
  append("a", "two\n");
  EXPECT_THAT(batch(), IsEmpty());
  EXPECT_THAT(told_.description, HasSubstr("changed after they were taken, which is not read: a (1 files so far)"));
  append("a", "three\n");
  EXPECT_THAT(batch(), IsEmpty());
  EXPECT_EQ(told_.description, "");
}

TEST_F(TextFilesInputTest, ReadsAFileAsItWasWhenItWasListed) {
  start();
  write("a", "one\ntw");
  const NodePtr node = choose();
  append("a", "o\nthree\n");
  EXPECT_THAT(lines_of(*engine_, node), ElementsAre("one", "tw"));
  EXPECT_THAT(lines_of(*engine_, node), ElementsAre("one", "tw"));
}

TEST_F(TextFilesInputTest, WaitsUntilAFileHasKeptItsSize) {
  start({.settle_time = 2s});
  write("a", "one\n");
  EXPECT_THAT(batch(), IsEmpty());
  append("a", "two\n");
  EXPECT_THAT(batch(), IsEmpty());
  EXPECT_THAT(batch(), IsEmpty());
  EXPECT_THAT(batch(), ElementsAre("one", "two"));
}

TEST_F(TextFilesInputTest, TakesTheRestInTheNextBatchWhenThereIsMuch) {
  start({.bytes_per_batch_max = 5});
  write("a", "0123456789\n");
  write("b", "1\n");
  write("c", "2\n");
  write("d", "3\n");
  EXPECT_THAT(batch(), ElementsAre("0123456789"));
  EXPECT_THAT(batch(), ElementsAre("1", "2"));
  EXPECT_THAT(batch(), ElementsAre("3"));
  EXPECT_THAT(batch(), IsEmpty());
}

TEST_F(TextFilesInputTest, FailsTheTaskWhenAChosenFileHasGoneOrIsAnother) {
  const auto code_of = [this](const NodePtr& node) {
    try {
      lines_of(*engine_, node);
    } catch (const Error& error) {
      return static_cast<int>(error.code());
    }
    return 0;
  };
  start();
  write("a", "one\n");
  const NodePtr node = choose();
  write(".a", "other\n");
  files_.rename(path(".a"), path("a"));
  EXPECT_EQ(code_of(node), 412);
  files_.remove(path("a"));
  EXPECT_EQ(code_of(node), 411);
  write("b", "one\n");
  const NodePtr shorter = choose();
  files_.open_append(path("b"))->truncate(2);
  EXPECT_EQ(code_of(shorter), 412);
}

TEST_F(TextFilesInputTest, ReadsCompressedFilesAndSkipsLinesOverTheLimit) {
  start({.line_bytes_max = 5});
  const gzFile zipped = gzopen(path(".zipped.gz").c_str(), "wb");
  gzputs(zipped, "good\ntoo long\n12345\n");
  gzclose(zipped);
  files_.rename(path(".zipped.gz"), path("zipped.gz"));
  EXPECT_THAT(batch(), ElementsAre("good", "12345"));
  EXPECT_EQ(engine_->accumulated(too_long_), 1);
}

TEST_F(TextFilesInputTest, SplitsALargeFileAtLines) {
  start();
  Lines expected;
  std::string text;
  for (int i = 0; text.size() < (70 << 20); ++i) {
    expected.push_back(std::to_string(i) + std::string(20'000, 'x'));
    text += expected.back() + "\n";
  }
  write(".large", text);
  files_.rename(path(".large"), path("large"));
  EXPECT_EQ(batch(), expected);
  EXPECT_EQ(told_.blocks, 3u);
}

TEST_F(TextFilesInputTest, GoesOnWhenTheDirectoryIsGoneForATime) {
  start();
  write("a", "one\n");
  EXPECT_THAT(batch(), ElementsAre("one"));
  files_.rename(directory_, directory_ + ".away");
  EXPECT_THAT(batch(), IsEmpty());
  EXPECT_THAT(told_.description, HasSubstr("listing failed (1 times so far)"));
  files_.rename(directory_ + ".away", directory_);
  write("b", "two\n");
  EXPECT_THAT(batch(), ElementsAre("two"));
}

TEST_F(TextFilesInputTest, TakesAFileAgainThatWasMovedAwayAndBack) {
  start();
  write("a", "one\n");
  EXPECT_THAT(batch(), ElementsAre("one"));
  files_.rename(path("a"), path(".a"));
  EXPECT_THAT(batch(), IsEmpty());
  files_.rename(path(".a"), path("a"));
  EXPECT_THAT(batch(), ElementsAre("one"));
}

TEST_F(TextFilesInputTest, StartNamesADirectoryThatIsNone) {
  const auto error_of = [this](const std::string& directory) {
    try {
      make_text_files_input(*engine_, directory, {}, 0, 1)->start(*engine_, {});
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_THAT(error_of(path("missing")), ::testing::AllOf(HasSubstr("SLU-410"), HasSubstr(path("missing"))));
  write("file", "x\n");
  EXPECT_THAT(error_of(path("file")), ::testing::AllOf(HasSubstr("SLU-410"), HasSubstr(path("file"))));
}

// Writers rename files in, also under names taken before; each file's lines come in one batch, once.
TEST(TextFilesInputSimulation, LosesAndDoublesNothing) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(seed);
    testing::Simulation sim(seed, {.step_time_max = 20ms});
    std::map<std::string, int> seen;
    int written = 0;
    sim.run([&] {
      FileSystem& files = sim.files();
      files.make_directories("/in");
      files.make_directories("/made");
      const auto engine = std::make_shared<Engine>(sim, EngineOptions{.encode_tasks = seed % 2 == 0});
      const auto input = make_text_files_input(*engine, "/in", {}, 0, 1 + sim.random().below(4));
      input->start(*engine, {});
      bool ended = false;
      const auto writer = sim.spawn("writer", [&] {
        for (int i = 0; i < 40; ++i) {
          const std::string made = "/made/" + std::to_string(i);
          files.create(made)->append("line " + std::to_string(2 * i) + "\nline " + std::to_string(2 * i + 1));
          written += 2;
          files.rename(made, "/in/" + std::to_string(i));
          // What has been taken is cleared away, which frees its inode number for the next file.
          if (sim.random().chance(0.3)) {
            for (int old = 0; old <= i; ++old) {
              const std::string last = "line " + std::to_string(2 * old + 1);
              if (seen.contains(last)) files.remove("/in/" + std::to_string(old));
            }
          }
        }
        ended = true;
      });
      Time time = sim.clock().now();
      for (bool last = false; !last;) {
        last = ended;
        InputInfo told;
        const NodePtr node = batch_of(*input, *engine, engine->info("files", {}), time += 100ms, told);
        for (const std::string& line : lines_of(*engine, node)) ++seen[line];
        sim.wait_for(100ms);
      }
      writer->join();
    });
    ASSERT_EQ(seen.size(), static_cast<std::size_t>(written));
    for (const auto& [line, count] : seen) ASSERT_EQ(count, 1) << line;
  }
}

}  // namespace
}  // namespace sluice::detail
