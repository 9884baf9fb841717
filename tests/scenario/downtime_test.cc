// What becomes of the time in which no program ran: its intervals are left out (MissedBatches::merge).
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sluice/testkit/testing.h"
#include "tests/scenario/matrix.h"

namespace sluice::testing {
namespace {

/// Lives of one program, one after the other, with a checkpoint after each batch.
class Downtime : public ::testing::Test {
 protected:
  Downtime() {
    options_.runtime = &runtime_;
    options_.checkpoint = "/dev/shm/sluice-downtime-" + std::to_string(runtime_.random_seed());
    options_.checkpoint_interval = 1ms;
    options_.recordings = std::make_shared<Recordings>();
  }
  ~Downtime() override { runtime_.files().remove_all(options_.checkpoint); }

  /// Lives until the stream has had `batches`, those of earlier lives and those left out included.
  template <class Declare>
  auto live(std::size_t batches, const Declare& declare) {
    StreamTest t(options_);
    auto out = t.output(declare(t));
    t.run(batches);
    return out;
  }
  void pass(Duration downtime) { runtime_.advance(downtime); }

  HandRuntime runtime_;
  StreamTestOptions options_;
};

TEST_F(Downtime, AWindowThatReachesOverItHasWhatThereIs) {
  const auto program = [](StreamTest& t) {
    return t.stream<int>({{1}, {2}, {3}, {4}}).map([](int x) { return x; }).window({.length = 4s});
  };
  live(2, program);
  pass(3s);  // Seconds 3 and 4 are left out: the next batch is that of second 5.
  live(3, program);
  const auto out = live(6, program);
  EXPECT_EQ(values(out.batches()), (Ints{{1}, {1, 2}, {2, 3}, {3, 4}}));
}

// Then the one before is used, and what of the newest had been read when it was found damaged is not.
TEST_F(Downtime, OfADamagedCheckpointAWindowHasNothing) {
  const auto program = [](StreamTest& t) {
    return t.stream<int>({{1, 2}, {3, 4}, {5, 6}, {7, 8}}).map([](int x) { return x; }).window({.length = 3s});
  };
  FileSystem& files = runtime_.files();
  const std::string directory = options_.checkpoint;
  for (std::size_t from_end = 1;;) {
    files.remove_all(directory);
    options_.recordings = std::make_shared<Recordings>();
    live(3, program);
    std::vector<std::string> checkpoints;
    const std::vector<FileInfo> found = files.list(directory).value();
    for (const FileInfo& file : found) {
      if (base_name(file.path).starts_with("state-")) checkpoints.push_back(file.path);
    }
    if (checkpoints.size() < 2) continue;  // a busy machine: the life was over before one was written beside the first
    const std::string newest = *std::max_element(checkpoints.begin(), checkpoints.end());
    std::string bytes = read_file(files, newest);
    if (from_end > bytes.size()) break;
    char& damaged = bytes[bytes.size() - from_end];
    damaged = static_cast<char>(damaged ^ 4);
    files.publish(newest, bytes);
    Ints all;
    for (const auto& batch : values(live(4, program).batches())) all.push_back(batch);
    std::sort(all.back().begin(), all.back().end());
    EXPECT_EQ(all.back(), (std::vector<int>{3, 4, 5, 6, 7, 8})) << from_end << " bytes before the end";
    from_end += 3;
  }
}

TEST_F(Downtime, AWindowOverAnInputHasWhatThereIs) {
  const auto program = [](StreamTest& t) { return t.stream<int>({{1}, {2}, {3}, {4}}).window({.length = 4s}); };
  live(2, program);
  pass(3s);
  live(3, program);
  const auto out = live(6, program);
  EXPECT_EQ(values(out.batches()), (Ints{{1}, {1, 2}, {2, 3}, {3, 4}}));
}

// What it is made of leaves it at its next slide, however many slides were left out before the checkpoint.
TEST_F(Downtime, AWindowWithInverseThatMissedASlideForgetsWhatHasLeft) {
  const auto program = [](StreamTest& t) {
    return t.stream<int>({{1}, {2}, {4}, {8}, {}, {}, {}, {16}, {32}, {}, {}, {64}})
        .map([](int x) { return Pair(1, x); })
        .reduce_by_key_and_window(std::plus{}, std::minus{}, {.length = 3s, .slide = 3s});
  };
  // The lists of seconds 1 to 4. Second 4 is in the window that slides once more, at 6; those of 5 to 7 are empty.
  live(4, program);
  pass(7s);
  Output<Pair> out;
  const auto go_on = [&](std::size_t batches_at_start, int seconds) {
    StreamTest t(options_);
    out = t.output(program(t));
    t.start();
    std::size_t batches = batches_at_start;
    t.streaming().driver()->await_batches(batches);
    for (int second = 0; second < seconds; ++second) {
      t.advance(1s);
      t.streaming().driver()->await_batches(++batches);
    }
  };
  go_on(4, 0);  // seconds 5 to 7, and 11; 9 has been left out
  go_on(0, 4);
  // Seconds 11 to 15 have the fifth list to the ninth.
  EXPECT_EQ(sorted_values(out.batches()), (Pairs{{{1, 7}}, {{1, 8}}, {}, {{1, 48}}}));
}

// A new stream was not down: what passes before its thread has begun is no time in which no program ran.
TEST_F(Downtime, ANewStreamLeavesNothingOut) {
  for (int life = 0; life < 50; ++life) {
    StreamTest t({.without_checkpoint = life % 2 == 0});
    const auto out = t.output(t.stream<int>({{1}, {2}, {3}, {4}, {5}}));
    t.start();
    t.advance(5s);
    t.stop(true);
    ASSERT_EQ(values(out.batches()), (Ints{{1}, {2}, {3}, {4}, {5}})) << "life " << life;
  }
}

}  // namespace
}  // namespace sluice::testing
