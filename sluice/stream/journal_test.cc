#include "sluice/stream/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "sluice/core/codec.h"
#include "sluice/runtime/errors.h"
#include "sluice/runtime/random.h"
#include "sluice/stream/log_format.h"
#include "sluice/testkit/simulation.h"
#include "sluice/testkit/thrown.h"

namespace sluice::detail {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using testing::SimulatedCrash;
using testing::Simulation;
using Texts = std::vector<std::string>;

const std::string directory = "/ckpt/journal";

Time at(std::int64_t second) { return Time(std::chrono::seconds(second)); }

RunRecord run_record(std::uint64_t epoch) {
  return {epoch, epoch * 100, at(0), 1s, {"lines", "ticks"}, {"print", "sql"}};
}

RecordedBlock block_of(std::uint64_t number, std::string position = {}) {
  RecordedBlock block;
  block.number = number;
  block.bytes = number * 10;
  block.records = number * 2;
  block.stored = Time(Duration(static_cast<std::int64_t>(number)));
  block.handle = LogHandle{1, number, 56, 100};
  block.position = std::move(position);
  return block;
}

bool same(const RecordedBlock& a, const RecordedBlock& b) {
  return a.number == b.number && a.bytes == b.bytes && a.records == b.records && a.stored == b.stored &&
         a.handle == b.handle && a.position == b.position;
}

class JournalTest : public ::testing::Test {
 protected:
  JournalContent read() { return read_journal(sim_.files(), directory); }
  /// The next run: what it found is in `found_`.
  void run(const std::function<void(Journal&)>& body, std::optional<RunRecord> record = std::nullopt) {
    sim_.run([&] {
      found_ = read();
      Journal journal(sim_, directory, found_, record ? *record : run_record(++epoch_), {}, [] {});
      body(journal);
      journal.log().wait_durable(journal.log().end());
    });
  }
  std::vector<std::uint64_t> segments() {
    std::vector<std::uint64_t> numbers;
    const auto listed = sim_.files().list(directory);
    for (const FileInfo& file : listed.value_or(std::vector<FileInfo>{})) {
      if (const auto id = parse_log_segment_path(file.path)) numbers.push_back(id->number);
    }
    std::sort(numbers.begin(), numbers.end());
    return numbers;
  }
  /// Gives the log's thread the time to remove what it may.
  void settle() { sim_.wait_for(1s); }
  /// A batch with nothing in it but so many bytes, complete.
  static void whole_batch(Journal& journal, Time time, std::size_t bytes = 1) {
    journal.batch(time, {std::string(bytes, 'x'), ""}, {{}, {}});
    journal.complete(time);
  }

  Simulation sim_{13};
  JournalContent found_;
  std::uint64_t epoch_ = 0;
};

constexpr std::size_t segment_full = 1 << 20;

TEST_F(JournalTest, ARunIsReadBack) {
  EXPECT_TRUE(read().empty);
  run([](Journal&) {});
  const JournalContent content = read();
  EXPECT_FALSE(content.empty);
  EXPECT_EQ(content.epoch, 1u);
  EXPECT_EQ(content.build, 100u);
  EXPECT_EQ(content.zero, at(0));
  EXPECT_EQ(content.interval, 1s);
  EXPECT_TRUE(content.batches.empty());
  EXPECT_THAT(content.owed, IsEmpty());
}

TEST_F(JournalTest, BlocksAreReadBackAndLeaveTheUnallocatedByABatch) {
  run([](Journal& journal) {
    journal.block(0, block_of(1, "at 1"));
    journal.block(1, block_of(7));
    RecordedBlock in_memory = block_of(2);
    in_memory.handle.reset();
    journal.block(0, in_memory);
    journal.batch(at(1), {"", ""}, {{1}, {7}});
  });
  const JournalContent content = read();
  ASSERT_EQ(content.blocks.at("lines").size(), 2u);
  EXPECT_TRUE(same(content.blocks.at("lines").at(1), block_of(1, "at 1")));
  EXPECT_FALSE(content.blocks.at("lines").at(2).handle.has_value());
  EXPECT_TRUE(same(content.blocks.at("ticks").at(7), block_of(7)));
  EXPECT_THAT(content.allocated.at("lines"), ElementsAre(Pair(1, at(1))));
  EXPECT_THAT(content.allocated.at("ticks"), ElementsAre(Pair(7, at(1))));
}

TEST_F(JournalTest, ABatchIsReadBackWithItsFate) {
  run([](Journal& journal) {
    journal.batch(at(1), {std::string("\0choice", 7), ""}, {{}, {}});
    journal.output(at(1), 0, true, "sink 1");
    journal.output(at(1), 1, false, {});
    journal.complete(at(1));
    journal.batch(at(2), {"a", "b"}, {{}, {}});
    journal.output(at(2), 0, true, {});
  });
  const JournalContent content = read();
  ASSERT_EQ(content.batches.size(), 2u);
  const RecordedBatch& first = content.batches.at(at(1));
  EXPECT_EQ(first.time, at(1));
  EXPECT_EQ(first.inputs, (std::map<std::string, std::string>{{"lines", std::string("\0choice", 7)}, {"ticks", ""}}));
  EXPECT_EQ(first.outputs, (std::map<std::string, bool>{{"print", true}, {"sql", false}}));
  EXPECT_TRUE(first.complete);
  EXPECT_EQ(first.build, 100u);
  const RecordedBatch& second = content.batches.at(at(2));
  EXPECT_EQ(second.inputs, (std::map<std::string, std::string>{{"lines", "a"}, {"ticks", "b"}}));
  EXPECT_EQ(second.outputs, (std::map<std::string, bool>{{"print", true}}));
  EXPECT_FALSE(second.complete);
  EXPECT_THAT(content.owed, ElementsAre(OwedOutput{at(1), "sql"}));
  EXPECT_THAT(content.sinks, ElementsAre(Pair("print", "sink 1")));
}

TEST_F(JournalTest, WhatIsDeliveredIsNotOwed) {
  run([](Journal& journal) {
    for (int second = 1; second <= 3; ++second) {
      journal.batch(at(second), {"", ""}, {{}, {}});
      journal.output(at(second), 1, false, {});
      journal.complete(at(second));
    }
    journal.delivered(at(2), "sql", {});
  });
  EXPECT_THAT(read().owed, ElementsAre(OwedOutput{at(1), "sql"}, OwedOutput{at(3), "sql"}));
}

TEST_F(JournalTest, WhatASinkSaidWhenItGotAnOwedOutputIsTheLastItSaid) {
  run([](Journal& journal) {
    for (int second = 1; second <= 2; ++second) journal.batch(at(second), {"", ""}, {{}, {}});
    journal.output(at(1), 1, false, {});
    journal.output(at(2), 1, true, "has 2");
    journal.delivered(at(1), "sql", "has 2 and 1");
  });
  EXPECT_THAT(read().sinks, ElementsAre(Pair("sql", "has 2 and 1")));
  run([](Journal&) {});  // says it again
  EXPECT_THAT(read().sinks, ElementsAre(Pair("sql", "has 2 and 1")));
}

TEST_F(JournalTest, DeliveriesOfVersion1AreRead) {
  run([](Journal& journal) {
    journal.batch(at(1), {"", ""}, {{}, {}});
    journal.output(at(1), 1, false, "said early");
    Encoder delivered;
    delivered.u8(5);
    delivered.u8(1);
    delivered.u64(static_cast<std::uint64_t>(at(1).time_since_epoch().count()));
    delivered.text("sql");
    journal.log().append(delivered.view());
  });
  EXPECT_THAT(read().owed, IsEmpty());
  EXPECT_THAT(read().sinks, ElementsAre(Pair("sql", "said early")));
}

TEST_F(JournalTest, TheNextRunGoesOnAndFinishesWhatWasBegun) {
  run([](Journal& journal) {
    journal.block(0, block_of(1, "at 1"));
    journal.batch(at(1), {"", ""}, {{1}, {}});
    journal.output(at(1), 0, true, {});
  });
  // Other inputs and outputs, in another order.
  run(
      [](Journal& journal) {
        journal.output(at(1), 1, true, {});
        journal.complete(at(1));
        journal.batch(at(2), {"new", "old"}, {{}, {}});
      },
      RunRecord{++epoch_, 200, at(0), 1s, {"more", "lines"}, {"print", "file"}});
  const JournalContent content = read();
  EXPECT_EQ(content.epoch, 2u);
  const RecordedBatch& batch = content.batches.at(at(1));
  EXPECT_EQ(batch.inputs, (std::map<std::string, std::string>{{"lines", ""}, {"ticks", ""}}));
  EXPECT_EQ(batch.outputs, (std::map<std::string, bool>{{"print", true}, {"file", true}}));
  EXPECT_TRUE(batch.complete);
  EXPECT_EQ(batch.build, 200u);
  EXPECT_EQ(content.batches.at(at(2)).inputs, (std::map<std::string, std::string>{{"more", "new"}, {"lines", "old"}}));
}

// ---- Segments

TEST_F(JournalTest, ANewSegmentSaysAgainWhatLivesLonger) {
  run([&](Journal& journal) {
    journal.block(0, block_of(1, "at 1"));
    journal.batch(at(1), {std::string(segment_full, 'x'), ""}, {{1}, {}});
    journal.output(at(1), 0, true, "sink 1");
    journal.output(at(1), 1, false, {});
    journal.complete(at(1));
    whole_batch(journal, at(2));
    journal.forget(at(0));
    whole_batch(journal, at(3));
    journal.forget(at(2));
    journal.log().wait_durable(journal.log().end());
    settle();
    EXPECT_THAT(segments(), ElementsAre(2u));
  });
  const JournalContent content = read();
  EXPECT_THAT(content.owed, ElementsAre(OwedOutput{at(1), "sql"}));
  EXPECT_THAT(content.sinks, ElementsAre(Pair("print", "sink 1")));
  EXPECT_EQ(content.receivers.at("lines").position, "at 1");
  EXPECT_EQ(content.receivers.at("lines").number, 1u);
  EXPECT_EQ(content.batches.size(), 1u);
  // And once more in the next run, which removes that segment, too.
  run([&](Journal& journal) {
    whole_batch(journal, at(4));
    journal.forget(at(3));
    journal.log().wait_durable(journal.log().end());
    settle();
    EXPECT_THAT(segments(), ElementsAre(3u));
  });
  EXPECT_THAT(read().owed, ElementsAre(OwedOutput{at(1), "sql"}));
  EXPECT_THAT(read().sinks, ElementsAre(Pair("print", "sink 1")));
  EXPECT_EQ(read().receivers.at("lines").position, "at 1");
}

TEST_F(JournalTest, SegmentsStayWhileABlockInThemHasNoBatch) {
  run([&](Journal& journal) {
    journal.block(0, block_of(1, "at 1"));
    for (int second = 1; second <= 4; ++second) {
      whole_batch(journal, at(second), segment_full);
      journal.forget(at(second));
    }
    journal.log().wait_durable(journal.log().end());
    settle();
    EXPECT_EQ(segments().front(), 1u);
    EXPECT_EQ(journal.first_wal_segment(), 1u);
    // The batch that gets it holds it as long as it lives itself.
    journal.batch(at(5), {"", ""}, {{1}, {}});
    journal.forget(at(4));
    journal.log().wait_durable(journal.log().end());
    settle();
    EXPECT_EQ(segments().front(), 1u);
    EXPECT_TRUE(same(read().blocks.at("lines").at(1), block_of(1, "at 1")));
    journal.complete(at(5));
    journal.forget(at(5));
    journal.log().wait_durable(journal.log().end());
    settle();
    EXPECT_EQ(segments().front(), segments().back());
    EXPECT_EQ(journal.first_wal_segment(), ~std::uint64_t{0});
  });
}

TEST_F(JournalTest, TheLogOfBlocksIsNeededFromItsOldestBlockOn) {
  run([](Journal& journal) {
    for (const std::uint64_t number : {3u, 4u, 5u, 6u}) journal.block(0, block_of(number));
    EXPECT_EQ(journal.first_wal_segment(), 3u);
    journal.batch(at(1), {"", ""}, {{3}, {}});
    EXPECT_EQ(journal.first_wal_segment(), 3u);
    journal.batch(at(2), {"", ""}, {{4, 5}, {}});
    journal.forget(at(1));
    EXPECT_EQ(journal.first_wal_segment(), 4u);
    journal.forget(at(2));
    EXPECT_EQ(journal.first_wal_segment(), 6u);
  });
  run([](Journal& journal) {
    EXPECT_EQ(journal.first_wal_segment(), 3u);  // what was forgotten is not recorded
    journal.forget(at(2));
    EXPECT_EQ(journal.first_wal_segment(), 6u);
  });
}

// ---- Damage

TEST_F(JournalTest, ARecordOfANewerVersionIsRefused) {
  run([](Journal& journal) { journal.log().append(std::string("\3\2anything", 10)); });
  const auto error = error_of([&] { read(); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), Code::other_version);
  EXPECT_THAT(error->details().why, HasSubstr("/ckpt/journal/0000000001-0000000001.log at byte "));
  EXPECT_THAT(error->details().why, HasSubstr("version 2"));
}

TEST_F(JournalTest, WhatIsNoRecordIsDamage) {
  Encoder block;
  for (const int byte : {2, 1, 9}) block.u8(static_cast<std::uint8_t>(byte));  // of an input that is not there
  Encoder output;
  output.u8(4);
  output.u8(1);
  output.u64(1);
  output.u8(0);
  output.u8(2);  // neither done nor owed
  output.u8(0);
  Encoder run_without_interval;
  run_without_interval.u8(1);
  run_without_interval.u8(1);
  for (int i = 0; i < 4; ++i) run_without_interval.u64(0);
  for (int i = 0; i < 5; ++i) run_without_interval.u8(0);
  for (const std::string& bytes :
       {std::string("\7\1", 2), std::string("\0\1", 2), std::string("\6", 1), std::string("\6\1", 2),
        std::string("\6\1too short", 11), std::string("\6\1just too long", 15), block.take(), output.take(),
        run_without_interval.take()}) {
    Simulation sim(1);
    sim.run([&] {
      Journal journal(sim, directory, {}, run_record(1), {}, [] {});
      journal.log().append(bytes);
    });
    const auto error = error_of([&] { read_journal(sim.files(), directory); });
    ASSERT_TRUE(error) << bytes;
    EXPECT_TRUE(error->code() == Code::corrupt_data || error->code() == Code::truncated_data) << error->what();
    EXPECT_THAT(error->details().why, HasSubstr("/ckpt/journal/0000000001-0000000001.log at byte "));
  }
}

TEST_F(JournalTest, AJournalBeginsWithARun) {
  sim_.run([&] {
    Log log(sim_, directory, {}, {});
    log.append(std::string("\6\1", 2) + std::string(8, '\0'));
  });
  const auto error = error_of([&] { read(); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), Code::corrupt_data);
}

TEST_F(JournalTest, EveryRecordCutOrWithMoreIsDamage) {
  Texts records;
  sim_.run([&] {
    Journal journal(sim_, directory, {}, run_record(1), {}, [] {});
    journal.block(0, block_of(1, "at 1"));
    journal.batch(at(1), {"choice", ""}, {{1}, {}});
    journal.output(at(1), 0, true, "sink");
    journal.output(at(1), 1, false, {});
    journal.delivered(at(1), "sql", "said late");
    journal.complete(at(1));
  });
  read_log(sim_.files(), directory, 0,
           [&](const LogHandle&, std::string_view record) { records.emplace_back(record); });
  ASSERT_EQ(records.size(), 7u);
  const auto is_damaged = [](const Texts& written) {
    Simulation sim(1);
    sim.run([&] {
      Log log(sim, directory, {}, {});
      for (const std::string& record : written) log.append(record);
    });
    const auto error = error_of([&] { read_journal(sim.files(), directory); });
    return error && (error->code() == Code::corrupt_data || error->code() == Code::truncated_data);
  };
  EXPECT_FALSE(is_damaged(records));
  for (std::size_t i = 0; i < records.size(); ++i) {
    for (std::size_t size = 1; size < records[i].size(); ++size) {
      Texts cut = records;
      cut[i].resize(size);
      EXPECT_TRUE(is_damaged(cut)) << i << " " << size;
    }
    Texts longer = records;
    longer[i] += '\0';
    EXPECT_TRUE(is_damaged(longer)) << i;
  }
}

// ---- Against a model

/// What has been recorded, and what of it may be forgotten.
class Model {
 public:
  explicit Model(std::uint64_t seed) : sim_(seed), random_(seed) {}

  void run() {
    for (std::uint64_t lives = 1 + random_.below(5); lives > 0; --lives) {
      ++epoch_;
      sim_.run([this] { live(); });
      if (random_.chance(0.3)) sim_.crash_disk();
      ASSERT_NO_FATAL_FAILURE(compare(read_journal(sim_.files(), directory)));
    }
  }
  std::uint64_t removed() const { return removed_; }

 private:
  struct KnownBatch {
    std::map<std::string, std::string> inputs;
    std::map<std::string, bool> outputs;
    bool complete = false;
  };

  void live() {
    // A program may have got inputs and outputs, in whatever order.
    RunRecord record = run_record(epoch_);
    if (random_.chance(0.5)) std::swap(record.inputs[0], record.inputs[1]);
    if (random_.chance(0.5)) std::swap(record.outputs[0], record.outputs[1]);
    Journal journal(sim_, directory, read_journal(sim_.files(), directory), record, {}, [] {});
    for (std::uint64_t left = random_.below(120); left > 0; --left) {
      switch (random_.below(6)) {
        case 0: store(journal, record); break;
        case 1: begin_batch(journal, record); break;
        case 2:
        case 3: finish(journal, record); break;
        case 4: deliver(journal); break;
        default: forget(journal); break;
      }
    }
    journal.log().wait_durable(journal.log().end());
    sim_.wait_for(1s);
    removed_ += journal.log().segments_removed();
  }

  void store(Journal& journal, const RunRecord& record) {
    const std::size_t input = random_.below(2);
    RecordedBlock block = block_of((epoch_ << 40) + ++blocks_);
    block.handle->segment = 1 + random_.below(1'000);
    if (random_.chance(0.5)) {
      block.position = "position " + std::to_string(blocks_);
      positions_[record.inputs[input]] = block.position;
    }
    journal.block(input, block);
    unallocated_[record.inputs[input]][block.number] = block;
  }

  void begin_batch(Journal& journal, const RunRecord& record) {
    const Time time = at(++second_);
    std::vector<std::vector<std::uint64_t>> blocks(2);
    Texts choices(2);
    KnownBatch& batch = batches_[time];
    for (std::size_t i = 0; i < 2; ++i) {
      // Large ones fill segments.
      choices[i] = std::string(random_.chance(0.3) ? random_.below(segment_full) : random_.below(10), 'x');
      batch.inputs[record.inputs[i]] = choices[i];
      auto& waiting = unallocated_[record.inputs[i]];
      while (!waiting.empty() && random_.chance(0.9)) {
        const auto first = waiting.begin();
        blocks[i].push_back(first->first);
        allocated_[record.inputs[i]].emplace(first->first, std::pair(time, first->second));
        waiting.erase(first);
      }
    }
    journal.batch(time, choices, blocks);
  }

  void finish(Journal& journal, const RunRecord& record) {
    for (auto& [time, batch] : batches_) {
      if (batch.complete) continue;
      for (std::size_t i = 0; i < 2; ++i) {
        const std::string& output = record.outputs[i];
        const bool done = random_.chance(0.8);
        const std::string sink = done && random_.chance(0.5) ? "sink " + std::to_string(second_) : "";
        journal.output(time, i, done, sink);
        batch.outputs[output] = done;
        if (!done) owed_.insert({time, output});
        if (!sink.empty()) sinks_[output] = sink;
      }
      journal.complete(time);
      batch.complete = true;
      return;
    }
  }

  void deliver(Journal& journal) {
    if (owed_.empty()) return;
    const OwedOutput owed = *owed_.begin();
    const std::string sink = random_.chance(0.5) ? "late sink " + std::to_string(second_) : "";
    journal.delivered(owed.time, owed.output, sink);
    if (!sink.empty()) sinks_[owed.output] = sink;
    owed_.erase(owed_.begin());
  }

  // As a driver does when a checkpoint is published: complete batches alone.
  void forget(Journal& journal) {
    std::optional<Time> last;
    for (const auto& [time, batch] : batches_) {
      if (!batch.complete || random_.chance(0.3)) break;
      last = time;
    }
    if (!last) return;
    journal.forget(*last);
    forgotten_ = std::max(forgotten_, *last);
  }

  void compare(const JournalContent& content) {
    SCOPED_TRACE("seed " + std::to_string(sim_.seed()) + ", epoch " + std::to_string(epoch_));
    ASSERT_EQ(content.epoch, epoch_);
    for (const auto& [time, batch] : batches_) {
      if (time <= forgotten_) continue;
      const auto found = content.batches.find(time);
      ASSERT_NE(found, content.batches.end());
      ASSERT_TRUE(found->second.inputs == batch.inputs);
      ASSERT_EQ(found->second.outputs, batch.outputs);
      ASSERT_EQ(found->second.complete, batch.complete);
    }
    for (const auto& [time, batch] : content.batches) {
      ASSERT_TRUE(batches_.contains(time));
      ASSERT_TRUE(time > forgotten_ || batch.complete);
    }
    for (const auto& [input, blocks] : unallocated_) {
      for (const auto& [number, block] : blocks) {
        ASSERT_TRUE(same(content.blocks.at(input).at(number), block));
        ASSERT_TRUE(!content.allocated.contains(input) || !content.allocated.at(input).contains(number));
      }
    }
    for (const auto& [input, blocks] : allocated_) {
      for (const auto& [number, block] : blocks) {
        if (block.first <= forgotten_) continue;
        ASSERT_TRUE(same(content.blocks.at(input).at(number), block.second));
        ASSERT_EQ(content.allocated.at(input).at(number), block.first);
      }
    }
    ASSERT_EQ(std::set<OwedOutput>(content.owed.begin(), content.owed.end()), owed_);
    ASSERT_EQ(content.owed.size(), owed_.size());
    ASSERT_EQ(content.sinks, sinks_);
    for (const auto& [input, position] : positions_) ASSERT_EQ(content.last_told(input).position, position);
  }

  Simulation sim_;
  Random random_;
  std::uint64_t epoch_ = 0;
  std::uint64_t blocks_ = 0;
  std::int64_t second_ = 0;
  Time forgotten_{};
  std::uint64_t removed_ = 0;
  std::map<Time, KnownBatch> batches_;
  std::map<std::string, std::map<std::uint64_t, RecordedBlock>> unallocated_;
  std::map<std::string, std::map<std::uint64_t, std::pair<Time, RecordedBlock>>> allocated_;
  std::set<OwedOutput> owed_;
  std::map<std::string, std::string> sinks_;
  std::map<std::string, std::string> positions_;
};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint64_t model_seeds = 10;
#else
constexpr std::uint64_t model_seeds = 100;
#endif

TEST(JournalModel, NothingThatIsNeededIsForgotten) {
  std::uint64_t removed = 0;
  for (std::uint64_t seed = 1; seed <= model_seeds && !::testing::Test::HasFailure(); ++seed) {
    Model model(seed);
    model.run();
    removed += model.removed();
  }
  EXPECT_GT(removed, model_seeds / 2);
}

}  // namespace
}  // namespace sluice::detail
