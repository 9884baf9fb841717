// What `sluice checkpoint` says of directories that streams have written.
#include <gmock/gmock.h>

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sluice/stream/checkpoint.h"
#include "sluice/stream/inspect.h"
#include "tests/scenario/lives.h"

namespace sluice::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class Inspect : public ::testing::Test {
 protected:
  // Batches of 1, 2, 3 ... keys; a checkpoint each.
  void live(std::size_t batches, const std::function<void(StreamTest&)>& look = [](StreamTest&) {}) {
    StreamTestOptions options = lives.options();
    options.checkpoint_interval = 1ms;
    lives.live(options, [&](StreamTest& t) {
      std::vector<std::vector<std::pair<int, int>>> lists(10);
      for (int n = 0; n < 10; ++n) {
        for (int key = 0; key <= n; ++key) lists[static_cast<std::size_t>(n)].emplace_back(key, 1);
      }
      last = t.output(t.stream(lists)
                          .name("in")
                          .update_state_by_key([](std::span<const int> now, std::optional<int> sum) {
                            for (const int x : now) sum = sum.value_or(0) + x;
                            return sum;
                          })
                          .name("sums"));
      t.run(batches);
      look(t);
      t.stop(true);
    });
  }
  FileSystem& files() { return lives.runtime.files(); }
  const std::string& directory() { return directory_; }

  Lives lives;
  Output<std::pair<int, int>> last;
  const std::string directory_ = lives.options().checkpoint;
};

TEST_F(Inspect, TellsWhatThereIsAndChangesNothing) {
  live(4);
  const auto before = lives.listing();
  const std::string listed = sluice::detail::list_checkpoints(files(), directory());
  const std::string newest = "1700000004000 (2023-11-14 22:13:24Z)";
  EXPECT_THAT(listed,
              AllOf(HasSubstr("application "), HasSubstr("runs: 1\n"), HasSubstr("checkpoint of batch " + newest),
                    HasSubstr(", 0 of them not complete; interval 1 s"), Not(HasSubstr("damaged"))));
  const std::string shown = sluice::detail::show_checkpoint(files(), directory(), 0);
  EXPECT_THAT(shown,
              AllOf(HasSubstr("checkpoint of batch " + newest), HasSubstr("operator sums: update_state_by_key\n"),
                    HasSubstr("  4 keys, "), HasSubstr(", 2 partitions\n"), HasSubstr("input ")));
  const sluice::detail::Verified verified = sluice::detail::verify_checkpoints(files(), directory());
  EXPECT_THAT(verified.problems, IsEmpty());
  EXPECT_GT(verified.checkpoints, 1U);
  EXPECT_GT(verified.journal_records, 4U);
  EXPECT_EQ(lives.listing(), before);
}

TEST_F(Inspect, LooksWhileTheStreamRuns) {
  std::size_t looks = 0;
  live(2, [&](StreamTest& t) {
    for (int batch = 3; batch <= 10; ++batch) {
      t.advance(1s);  // and looks while that batch runs
      sluice::detail::list_checkpoints(files(), directory());
      sluice::detail::show_checkpoint(files(), directory(), 0);
      EXPECT_THAT(sluice::detail::verify_checkpoints(files(), directory()).problems, IsEmpty());
      ++looks;
    }
    EXPECT_EQ(t.streaming().driver()->await_batches(10), 10U);
  });
  EXPECT_EQ(looks, 8U);
}

TEST_F(Inspect, FindsEachDamage) {
  live(3);
  std::size_t damaged = 0;
  for (const auto& [path, size] : lives.listing()) {
    const FileInfo info = files().stat(path).value();
    // Of the journal the end may be torn, which is no damage (journal_test.cc).
    const std::string_view name = base_name(path);
    if (info.is_directory || size == 0 || !(name.starts_with("checkpoint-") || name.starts_with("state-"))) continue;
    const std::string bytes = read_file(files(), path);
    for (const std::size_t at : {std::size_t{0}, bytes.size() / 2, bytes.size() - 1}) {
      std::string flipped = bytes;
      flipped[at] = static_cast<char>(flipped[at] ^ 4);
      files().publish(path, flipped);
      const sluice::detail::Verified found = sluice::detail::verify_checkpoints(files(), directory());
      EXPECT_FALSE(found.problems.empty()) << path << " at " << at;
      for (const std::string& problem : found.problems) EXPECT_THAT(problem, HasSubstr(directory()));
      EXPECT_NO_THROW(sluice::detail::list_checkpoints(files(), directory()));
      ++damaged;
    }
    files().publish(path, bytes);
  }
  EXPECT_GT(damaged, 3U);
  EXPECT_THAT(sluice::detail::verify_checkpoints(files(), directory()).problems, IsEmpty());
}

TEST_F(Inspect, WithoutTheNewestCheckpointTheOneBeforeIsUsed) {
  live(4);
  sluice::detail::remove_checkpoint(files(), directory(), 1700000004000);
  EXPECT_THAT(sluice::detail::list_checkpoints(files(), directory()),
              Not(HasSubstr("checkpoint of batch 1700000004000")));
  live(5);
  std::map<int, int> sums;
  const auto& records = last.batches().back().records;
  for (std::size_t i = 0; i < records.size(); ++i) sums[records[i].first] = records[i].second;
  EXPECT_EQ(sums, (std::map<int, int>{{0, 5}, {1, 4}, {2, 3}, {3, 2}, {4, 1}}));
}

TEST_F(Inspect, TheLastCheckpointStays) {
  live(4);
  const std::vector<std::string> listed = sluice::detail::list_manifests(files(), directory());
  for (std::size_t i = 1; i < listed.size(); ++i) files().remove(listed[i]);
  EXPECT_EQ(code_of([&] { sluice::detail::remove_checkpoint(files(), directory(), 1700000004000); }),
            Code::no_readable_checkpoint);
  EXPECT_EQ(code_of([&] { sluice::detail::show_checkpoint(files(), directory(), 1); }), Code::no_readable_checkpoint);
  EXPECT_EQ(code_of([&] { sluice::detail::list_checkpoints(files(), lives.directory); }), Code::not_readable);
}

}  // namespace
}  // namespace sluice::testing
