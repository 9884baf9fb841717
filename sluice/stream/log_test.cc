#include "sluice/stream/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "sluice/runtime/errors.h"
#include "sluice/runtime/kill_point.h"
#include "sluice/stream/log_format.h"
#include "sluice/testkit/faulty_filesystem.h"
#include "sluice/testkit/hand_runtime.h"
#include "sluice/testkit/simulation.h"
#include "sluice/testkit/thrown.h"

namespace sluice::detail {
namespace {

using testing::code_of;
using ::testing::ElementsAre;
using testing::FaultyFileSystem;
using testing::FaultyRuntime;
using testing::FileFault;
using testing::FileOperation;
using testing::HandRuntime;
using ::testing::IsEmpty;
using testing::SimulatedCrash;
using testing::Simulation;
using Texts = std::vector<std::string>;

const std::string directory = "/ckpt/log";

struct Reading {
  Texts texts;
  std::vector<LogHandle> handles;
  LogContent content;
};

Reading read_all(FileSystem& files, std::uint64_t from_segment = 0, const std::string& from = directory) {
  Reading reading;
  reading.content = read_log(files, from, from_segment, [&](const LogHandle& handle, std::string_view text) {
    reading.handles.push_back(handle);
    reading.texts.emplace_back(text);
  });
  return reading;
}

MemoryBlock block_of(std::string text) {
  const auto owner = std::make_shared<const std::string>(std::move(text));
  return {owner, *owner};
}

/// A log on the disk of a simulation. `fiber` runs code that waits.
class LogTest : public ::testing::Test {
 protected:
  void fiber(std::function<void()> body) { sim_.run(std::move(body)); }

  // Writes durable records as the owner of `epoch`, one group each, after what is there.
  void write(std::uint64_t epoch, const Texts& texts, LogOptions options = {}) {
    fiber([&] {
      options.epoch = epoch;
      Log log(runtime_, directory, read_all(files_).content, options);
      for (const std::string& text : texts) log.wait_durable(log.append(text));
    });
  }

  Texts names() {
    Texts result;
    const auto entries = files_.list(directory).value();
    for (const FileInfo& file : entries) {
      result.push_back(file.path.substr(directory.size() + 1));
    }
    return result;
  }

  Simulation sim_{7};
  FaultyFileSystem files_{sim_.files()};
  FaultyRuntime runtime_{sim_, files_};
};

using LogDeathTest = LogTest;

TEST_F(LogTest, ReadsBackWhatWasAppendedInThatOrder) {
  Texts texts;
  fiber([&] {
    Log log(runtime_, directory, {}, {});
    for (const std::size_t bytes : {1u, 7u, 8u, 100u, 70'000u, 300'000u, 3u}) {
      texts.push_back(std::string(bytes, static_cast<char>('a' + texts.size())));
      log.append(texts.back());
    }
    // In two pieces: a body that is copied, one that is kept, one without a header, and nothing but a header.
    for (const std::size_t bytes : {100u, 65'536u, 200'000u}) {
      texts.push_back("header" + std::string(bytes, 'b'));
      log.append("header", block_of(std::string(bytes, 'b')));
    }
    texts.push_back(std::string(65'536, 'c'));
    log.append("", block_of(texts.back()));
    texts.push_back("alone");
    log.append("alone", MemoryBlock{});
  });
  const Reading reading = read_all(files_);
  EXPECT_EQ(reading.texts, texts);
  EXPECT_EQ(reading.content.torn_bytes, 0u);
  EXPECT_THAT(reading.content.strays, IsEmpty());
  EXPECT_EQ(reading.content.next_segment, 2u);
}

TEST_F(LogTest, AHandleReadsItsRecordAlone) {
  std::vector<LogHandle> handles;
  fiber([&] {
    Log log(runtime_, directory, {}, {.segment_bytes = 100});
    for (const char* text : {"one", "two", "three"}) handles.push_back(log.append(text).handle);
    handles.push_back(log.append("head ", block_of(std::string(100'000, 'x'))).handle);
    handles.push_back(log.append("last").handle);
  });
  EXPECT_EQ(read_all(files_).handles, handles);
  EXPECT_EQ(read_log_record(files_, directory, handles[1]), "two");
  EXPECT_EQ(read_log_record(files_, directory, handles[3]), "head " + std::string(100'000, 'x'));
  EXPECT_EQ(read_log_record(files_, directory, handles[4]), "last");
}

TEST_F(LogTest, AHandleThatDoesNotFitIsRefused) {
  LogHandle handle;
  fiber([&] {
    Log log(runtime_, directory, {}, {});
    log.append("first");
    handle = log.append("second").handle;
  });
  const auto code_with = [&](auto change) {
    LogHandle other = handle;
    change(other);
    return code_of([&] { read_log_record(files_, directory, other); });
  };
  EXPECT_EQ(code_with([](LogHandle& other) { other.offset -= 1; }), Code::corrupt_data);
  EXPECT_EQ(code_with([](LogHandle& other) { other.bytes -= 1; }), Code::corrupt_data);
  EXPECT_EQ(code_with([](LogHandle& other) { other.bytes += 1; }), Code::truncated_data);
  EXPECT_EQ(code_with([](LogHandle& other) { other.bytes = UINT32_MAX; }), Code::truncated_data);
  EXPECT_EQ(code_with([](LogHandle& other) { other.offset = UINT64_MAX; }), Code::truncated_data);
  EXPECT_EQ(code_with([](LogHandle& other) { other.segment = 2; }), Code::not_readable);
  EXPECT_EQ(code_with([](LogHandle& other) { other.epoch = 2; }), Code::not_readable);
}

TEST(LogHandle, SurvivesItsCodec) {
  const LogHandle handle{3, 1'000'000, std::uint64_t{1} << 40, 70'000};
  Encoder out;
  encode(handle, out);
  const std::string bytes = out.take();
  Decoder in(bytes);
  EXPECT_EQ(decode<LogHandle>(in), handle);
  in.expect_end();
  Encoder too_long;
  for (const std::uint64_t part : {1ull, 1ull, 56ull, (1ull << 30) + 1}) too_long.varint(part);
  Decoder other(too_long.view());
  EXPECT_EQ(code_of([&] { decode<LogHandle>(other); }), Code::corrupt_data);
}

TEST_F(LogTest, KeepsALargeBodyUntilItIsWritten) {
  const MemoryBlock large = block_of(std::string(Log::kept_bytes_min, 'x'));
  const MemoryBlock small = block_of(std::string(Log::kept_bytes_min - 1, 'x'));
  fiber([&] {
    Log log(runtime_, directory, {}, {});
    log.append("h", small);
    EXPECT_EQ(small.owner.use_count(), 1);
    const LogPosition at = log.append("h", large);
    EXPECT_EQ(large.owner.use_count(), 2);
    log.wait_durable(at);
    EXPECT_EQ(large.owner.use_count(), 1);
  });
}

TEST_F(LogTest, RefusesAnEmptyRecordAndOneOverTheLimit) {
  fiber([&] {
    Log log(runtime_, directory, {}, {});
    EXPECT_EQ(code_of([&] { log.append(""); }), Code::bad_argument);
    EXPECT_EQ(code_of([&] { log.append("", MemoryBlock{}); }), Code::bad_argument);
    const char byte = 0;
    const MemoryBlock endless{nullptr, std::string_view(&byte, log_record_bytes_max)};
    EXPECT_EQ(code_of([&] { log.append("h", endless); }), Code::over_limit);
    EXPECT_EQ(log.end(), 0u);
  });
}

TEST_F(LogTest, CreatesNothingBeforeTheFirstAppend) {
  fiber([&] {
    Log log(runtime_, directory, {}, {});
    log.roll();
    log.remove_before(5);
    log.wait_durable(0);
    EXPECT_TRUE(log.durable(0));
    EXPECT_EQ(log.segment(), 1u);
  });
  EXPECT_EQ(files_.stat("/ckpt"), std::nullopt);
  const Reading reading = read_all(files_);
  EXPECT_THAT(reading.texts, IsEmpty());
  EXPECT_THAT(reading.content.segments, IsEmpty());
  EXPECT_EQ(reading.content.next_segment, 1u);
}

TEST_F(LogTest, ItsEndMakesDurableWhatWasAppended) {
  fiber([&] {
    Log log(runtime_, directory, {}, {});
    for (int i = 0; i < 100; ++i) log.append(std::to_string(i));
  });
  sim_.crash_disk();
  EXPECT_EQ(read_all(sim_.files()).texts.size(), 100u);
}

TEST_F(LogTest, PositionsGrowWithTheBytes) {
  fiber([&] {
    Log log(runtime_, directory, {}, {.segment_bytes = 80});
    EXPECT_EQ(log.append("12345").end, 13u);
    EXPECT_EQ(log.append("1").end, 22u);
    EXPECT_EQ(log.append("1").end, 31u);
    EXPECT_EQ(log.end(), 31u);
    log.wait_durable(22);
    EXPECT_TRUE(log.durable(22));
  });
}

TEST_F(LogTest, ManyRecordsShareASync) {
  fiber([&] {
    Log log(runtime_, directory, {}, {});
    std::vector<std::unique_ptr<Thread>> threads;
    for (int i = 0; i < 50; ++i) {
      threads.push_back(runtime_.spawn("appender", [&] {
        for (int k = 0; k < 4; ++k) log.wait_durable(log.append("record"));
      }));
    }
    for (const auto& thread : threads) thread->join();
  });
  EXPECT_EQ(read_all(files_).texts.size(), 200u);
  EXPECT_LE(files_.count(FileOperation::sync, ".log"), 20u);
  // Of each group a sync of the segment and one of the commit file; small records go in one write.
  EXPECT_LE(files_.count(FileOperation::sync, "commit"), files_.count(FileOperation::sync, ".log"));
  EXPECT_EQ(files_.count(FileOperation::append, ".log"), files_.count(FileOperation::sync, ".log") + 1);
}

TEST_F(LogTest, SleepsWhenThereIsNothingToDo) {
  fiber([&] {
    Log log(runtime_, directory, {}, {});
    log.append("record");
    runtime_.wait_for(std::chrono::seconds(1));
    const std::uint64_t before = sim_.steps();
    runtime_.wait_for(std::chrono::hours(24));
    // This fiber's own wait, and what spurious wake-ups there are.
    EXPECT_LE(sim_.steps() - before, 3u);
  });
}

TEST_F(LogTest, AppendWaitsWhileTooMuchIsNotDurable) {
  fiber([&] {
    Log log(runtime_, directory, {}, {});
    const MemoryBlock block = block_of(std::string(LogOptions().pending_bytes_max / 2, 'x'));
    const LogPosition first = log.append("1", block);
    log.append("2", block);
    EXPECT_FALSE(log.durable(first.end));
    log.append("3", block);
    EXPECT_TRUE(log.durable(first.end));
  });
}

TEST_F(LogTest, TellsAfterEachSync) {
  fiber([&] {
    Log log(runtime_, directory, {}, {});
    int told = 0;
    log.on_durable([&] { ++told; });
    log.wait_durable(log.append("one"));
    log.wait_durable(log.append("two"));
    EXPECT_EQ(told, 2);
  });
}

TEST_F(LogTest, GoesToANewSegmentWhenOneIsFull) {
  fiber([&] {
    Log log(runtime_, directory, {}, {.segment_bytes = 100});
    EXPECT_EQ(log.append(std::string(35, 'a')).handle.segment, 1u);
    EXPECT_EQ(log.segment(), 1u);
    // Reaches the size with this one, which is not cut in two.
    EXPECT_EQ(log.append(std::string(1'000, 'b')).handle.segment, 1u);
    EXPECT_EQ(log.segment(), 2u);
    EXPECT_EQ(log.append("c").handle, (LogHandle{1, 2, 56, 1}));
  });
  const Reading reading = read_all(files_);
  EXPECT_EQ(reading.texts, (Texts{std::string(35, 'a'), std::string(1'000, 'b'), "c"}));
  ASSERT_EQ(reading.content.segments.size(), 2u);
  EXPECT_EQ(reading.content.segments[0].end, 56 + 8 + 35 + 8 + 1'000u);
  EXPECT_EQ(reading.content.segments[1].end, 56 + 8 + 1u);
}

TEST_F(LogTest, RollBeginsASegmentOnce) {
  fiber([&] {
    Log log(runtime_, directory, {}, {});
    log.roll();
    EXPECT_EQ(log.append("a").handle.segment, 1u);
    log.roll();
    log.roll();
    EXPECT_EQ(log.segment(), 2u);
    EXPECT_EQ(log.append("b").handle.segment, 2u);
  });
  EXPECT_THAT(names(), ElementsAre("0000000001-0000000001.log", "0000000001-0000000002.log", "commit-0000000001"));
}

TEST_F(LogTest, RemovesOldSegmentsButTheNewestDurable) {
  fiber([&] {
    Log log(runtime_, directory, {}, {});
    for (const char* text : {"a", "b", "c"}) {
      log.wait_durable(log.append(text));
      log.roll();
    }
    log.remove_before(log.segment());
    while (log.segments_removed() < 2) sim_.pause();
    sim_.wait_for(std::chrono::hours(1));
    EXPECT_THAT(names(), ElementsAre("0000000001-0000000003.log", "commit-0000000001", "removed-before-0000000003"));
    // Its successor takes its place.
    log.append("d");
    while (log.segments_removed() < 3) sim_.pause();
    EXPECT_EQ(log.segments_removed(), 3u);
  });
  EXPECT_THAT(names(), ElementsAre("0000000001-0000000004.log", "commit-0000000001", "removed-before-0000000004"));
  EXPECT_THAT(read_all(files_).texts, ElementsAre("d"));
  // That they were removed is noted; else it is damage that they are missing.
  files_.remove("/ckpt/log/removed-before-0000000004");
  EXPECT_EQ(code_of([&] { read_all(files_, 3); }), Code::truncated_data);
}

TEST_F(LogTest, RemovalDoesNotWaitForABusyLogToRest) {
  fiber([&] {
    Log log(runtime_, directory, {}, {});
    log.wait_durable(log.append("old"));
    log.roll();
    log.wait_durable(log.append("new"));
    // After each group there is another one.
    int groups = 0;
    log.on_durable([&] {
      if (++groups < 1'000 && log.segments_removed() == 0) log.append("more");
    });
    log.append("more");
    log.remove_before(2);
    while (log.segments_removed() == 0) sim_.pause();
    EXPECT_LT(groups, 10);
  });
}

TEST_F(LogTest, ANewOwnerContinuesWithASegmentOfItsOwn) {
  write(1, {"a", "b"});
  write(4, {"c"}, {.segment_bytes = 1});
  write(5, {"d"});
  const Reading reading = read_all(files_);
  EXPECT_THAT(reading.texts, ElementsAre("a", "b", "c", "d"));
  EXPECT_THAT(names(),
              ElementsAre("0000000001-0000000001.log", "0000000004-0000000002.log", "0000000005-0000000003.log",
                          "commit-0000000001", "commit-0000000004", "commit-0000000005"));
  EXPECT_EQ(reading.content.next_segment, 4u);
}

TEST_F(LogTest, AnOwnerThatAppendsNothingLeavesNoTrace) {
  write(1, {"a"});
  write(2, {});
  write(3, {"b"});
  EXPECT_THAT(read_all(files_).texts, ElementsAre("a", "b"));
  EXPECT_THAT(names(), ElementsAre("0000000001-0000000001.log", "0000000003-0000000002.log", "commit-0000000001",
                                   "commit-0000000003"));
}

TEST_F(LogTest, ANewOwnerRemovesWhatItsPredecessorsLeft) {
  write(1, {"a", "b"}, {.segment_bytes = 1});
  write(2, {"c"});
  fiber([&] {
    Log log(runtime_, directory, read_all(files_).content, {.epoch = 3});
    // Without a segment of its own, the newest one of its predecessor is all there is.
    log.remove_before(log.segment());
    while (log.segments_removed() < 2) sim_.pause();
    sim_.wait_for(std::chrono::hours(1));
    EXPECT_THAT(names(), ElementsAre("0000000002-0000000003.log", "commit-0000000002", "removed-before-0000000003"));
    log.append("d");
    while (log.segments_removed() < 3) sim_.pause();
  });
  EXPECT_THAT(names(), ElementsAre("0000000003-0000000004.log", "commit-0000000003", "removed-before-0000000004"));
}

TEST_F(LogTest, AnEpochIsTakenOnce) {
  write(3, {"a"});
  const LogContent content = read_all(files_).content;
  for (const std::uint64_t epoch : {1u, 3u}) {
    EXPECT_EQ(code_of([&] { Log(runtime_, directory, content, {.epoch = epoch}); }), Code::bad_argument);
  }
  EXPECT_EQ(code_of([&] { Log(runtime_, directory, {}, {.epoch = 0}); }), Code::bad_argument);
  // One that has not looked.
  fiber([&] {
    Log log(runtime_, directory, {}, {.epoch = 3});
    EXPECT_EQ(code_of([&] { log.wait_durable(log.append("x")); }), Code::bad_argument);
  });
  EXPECT_THAT(read_all(files_).texts, ElementsAre("a"));
}

TEST_F(LogTest, AFencedOwnerWritesNothing) {
  fiber([&] {
    bool fenced = false;
    Log log(runtime_, directory, {}, {.fenced = [&] { return fenced; }});
    const LogPosition before = log.append("a");
    log.wait_durable(before);
    fenced = true;
    const LogPosition after = log.append("b");
    EXPECT_EQ(code_of([&] { log.wait_durable(after); }), Code::fenced);
    EXPECT_EQ(code_of([&] { log.append("c"); }), Code::fenced);
    EXPECT_EQ(code_of([&] { log.durable(after.end); }), Code::fenced);
    log.wait_durable(before);
  });
  EXPECT_THAT(read_all(files_).texts, ElementsAre("a"));
}

TEST_F(LogTest, NobodyIsToldOfAGroupDuringWhichTheOwnerWasFenced) {
  fiber([&] {
    Log log(runtime_, directory, {}, {.fenced = [&] { return files_.count(FileOperation::sync, ".log") == 1; }});
    EXPECT_EQ(code_of([&] { log.wait_durable(log.append("a")); }), Code::fenced);
  });
}

TEST_F(LogTest, AFencedOwnerRemovesNothing) {
  fiber([&] {
    bool fenced = false;
    Log log(runtime_, directory, {}, {.segment_bytes = 1, .fenced = [&] { return fenced; }});
    for (const char* text : {"a", "b", "c"}) log.wait_durable(log.append(text));
    fenced = true;
    log.remove_before(3);
  });
  EXPECT_THAT(read_all(files_).texts, ElementsAre("a", "b", "c"));
}

TEST_F(LogTest, WhatAZombieWritesIsNeverRead) {
  fiber([&] {
    // It is not told that it is fenced: the worst case.
    Log zombie(runtime_, directory, {}, {.epoch = 1});
    zombie.wait_durable(zombie.append("a"));
    Log owner(runtime_, directory, read_all(files_).content, {.epoch = 2});
    zombie.wait_durable(zombie.append("zombie, before the new owner has written"));
    owner.wait_durable(owner.append("b"));
    zombie.wait_durable(zombie.append("zombie, afterwards"));
    zombie.roll();
    zombie.wait_durable(zombie.append("zombie, in a new segment"));
    owner.roll();
    owner.wait_durable(owner.append("c"));
    zombie.roll();
    zombie.wait_durable(zombie.append("zombie, in one with a greater number"));
    zombie.roll();
    zombie.wait_durable(zombie.append("zombie, in one with an even greater number"));
  });
  const Reading reading = read_all(files_);
  EXPECT_THAT(reading.texts, ElementsAre("a", "b", "c"));
  EXPECT_EQ(reading.content.torn_bytes, 0u);
  EXPECT_EQ(reading.content.next_segment, 4u);
  const Texts strays = {directory + "/0000000001-0000000002.log", directory + "/0000000001-0000000003.log",
                        directory + "/0000000001-0000000004.log"};
  EXPECT_EQ(reading.content.strays, strays);

  // The next owner removes them, and what was linked stays.
  fiber([&] {
    Log next(runtime_, directory, reading.content, {.epoch = 3});
    next.remove_before(1);
    next.remove_before(2);
    while (next.segments_removed() < 4) sim_.pause();
    next.append("d");
  });
  EXPECT_THAT(read_all(files_, 2).texts, ElementsAre("b", "c", "d"));
  EXPECT_THAT(read_all(files_, 2).content.strays, IsEmpty());
}

TEST_F(LogTest, ReadingBeginsAtASegment) {
  write(1, {"a", "b", "c", "d"}, {.segment_bytes = 1});
  EXPECT_THAT(read_all(files_, 3).texts, ElementsAre("c", "d"));
  EXPECT_EQ(read_all(files_, 3).content.segments.size(), 4u);
  // What is older may be gone or damaged.
  files_.remove(directory + "/0000000001-0000000001.log");
  files_.create(directory + "/0000000001-0000000002.log");
  EXPECT_THAT(read_all(files_, 3).texts, ElementsAre("c", "d"));
  EXPECT_EQ(code_of([&] { read_all(files_, 2); }), Code::corrupt_data);
  files_.remove(directory + "/0000000001-0000000002.log");
  EXPECT_EQ(code_of([&] { read_all(files_, 2); }), Code::truncated_data);
}

// The owner that declared segments needless may have died before they were durable; their numbers are not used again,
// since readers would skip them.
TEST_F(LogTest, NumbersThatReadersSkipAreNotUsed) {
  write(1, {"a"});
  const Reading reading = read_all(files_, 5);
  EXPECT_THAT(reading.texts, IsEmpty());
  EXPECT_EQ(reading.content.next_segment, 5u);
  fiber([&] {
    Log log(runtime_, directory, reading.content, {.epoch = 2});
    EXPECT_EQ(log.append("b").handle.segment, 5u);
  });
  EXPECT_THAT(read_all(files_, 5).texts, ElementsAre("b"));
  EXPECT_THAT(read_all(files_).texts, ElementsAre("a", "b"));
  EXPECT_EQ(read_all(files_, 9, "/none").content.next_segment, 9u);
}

TEST_F(LogTest, OtherFilesInTheDirectoryAreNotItsOwn) {
  write(1, {"a"});
  for (const char* name : {"notes.txt", "1-1.log", "0000000001-0000000001.log.tmp", "0000000001-0000000000.log",
                           "-.log", "commit-", "commit-1", "commit-0000000001x", "00000000001-0000000001.log"}) {
    files_.create(directory + "/" + name)->append(std::string("x"));
  }
  const Reading reading = read_all(files_);
  EXPECT_THAT(reading.texts, ElementsAre("a"));
  EXPECT_THAT(reading.content.strays, IsEmpty());
}

TEST_F(LogTest, ReadsWhatIsThereWhileItIsWritten) {
  fiber([&] {
    Log log(runtime_, directory, {}, {.segment_bytes = 200});
    bool done = false;
    const auto writer = runtime_.spawn("writer", [&] {
      for (int i = 0; i < 200; ++i) log.wait_durable(log.append("record " + std::to_string(i)));
      done = true;
    });
    std::size_t seen = 0;
    while (!done) {
      const Texts texts = read_all(files_).texts;
      EXPECT_GE(texts.size(), seen);
      seen = texts.size();
      for (std::size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(texts[i], "record " + std::to_string(i));
    }
    writer->join();
  });
}

// L6: what the next owner has read may be in the cache only. Then the machine stops at any instant.
TEST_F(LogTest, WhatIsNotOnTheDiskIsNotBuiltUpon) {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    for (std::uint64_t steps = 1; steps < 40; ++steps) {
      Simulation sim(seed);
      const auto run_owner = [&](std::uint64_t epoch, const char* text) {
        try {
          sim.run([&] {
            const LogContent content = read_all(sim.files()).content;
            Log log(sim, directory, content, {.epoch = epoch});
            log.wait_durable(log.append(text));
          });
        } catch (const SimulatedCrash&) {
          return false;
        }
        return true;
      };
      set_kill_point_hook([&](std::string_view place) {
        if (place != "log.before_sync") return;
        sim.crash_after(0);
        sim.pause();
      });
      ASSERT_FALSE(run_owner(1, "a"));
      set_kill_point_hook({});
      ASSERT_THAT(read_all(sim.files()).texts, ElementsAre("a"));
      sim.crash_after(steps);
      const bool told = run_owner(2, "b");
      sim.crash_disk();
      const Texts texts = read_all(sim.files()).texts;
      const bool has_b = texts == Texts{"a", "b"};
      ASSERT_TRUE(has_b || (!told && (texts == Texts{"a"} || texts.empty()))) << seed << " " << steps;
    }
  }
}

// L5: every call that the log makes fails once, in each of the ways there are.
TEST_F(LogTest, AfterAFailureNothingMoreIsWritten) {
  using enum FileOperation;
  const std::vector<std::pair<FileOperation, int>> steps = {{make_directories, 1}, {create, 3}, {append, 6},
                                                            {write_at, 5},         {stat, 1},   {list, 1}};
  for (const auto& [operation, count] : steps) {
    for (int nth = 1; nth <= count; ++nth) {
      for (const FileFault fault : {FileFault::disk_full, FileFault::io_error, FileFault::short_write}) {
        SCOPED_TRACE(static_cast<int>(operation) * 1000 + nth * 10 + static_cast<int>(fault));
        Simulation sim(static_cast<std::uint64_t>(nth));
        FaultyFileSystem files(sim.files());
        FaultyRuntime runtime(sim, files);
        Texts durable;
        sim.run([&] {
          Log log(runtime, directory, {}, {.segment_bytes = 100});
          bool told_of_failure = false;
          log.on_durable([&] { told_of_failure = files.failures() == 1; });
          files.fail({.operation = operation, .nth = static_cast<std::uint64_t>(nth), .fault = fault});
          std::string reason;
          for (int i = 0; reason.empty(); ++i) {
            ASSERT_LT(i, 10) << "the fault was never reached";
            const std::string text = "record " + std::to_string(i) + std::string(20, 'x');
            try {
              log.wait_durable(log.append(text));
              durable.push_back(text);
              log.remove_before(2);
            } catch (const Error& error) {
              EXPECT_EQ(error.code(), Code::io_failed);
              reason = error.details().why;
            }
          }
          EXPECT_TRUE(told_of_failure);
          std::map<FileOperation, std::uint64_t> before;
          for (const FileOperation each : {append, write_at, create, sync}) before[each] = files.count(each);
          for (int i = 0; i < 3; ++i) {
            try {
              log.append("more");
              ADD_FAILURE();
            } catch (const Error& error) {
              EXPECT_EQ(error.details().why, reason);
            }
          }
          for (const auto& [each, number] : before) EXPECT_EQ(files.count(each), number);
        });
        sim.crash_disk();
        Texts left;
        for (const std::string& text : read_all(sim.files(), 2).texts) left.push_back(text);
        // All that anybody was told of, but what lay in the segment that was removed; more only of the group that
        // failed.
        for (std::size_t i = 2; i < durable.size(); ++i) EXPECT_THAT(left, ::testing::Contains(durable[i]));
      }
    }
  }
}

TEST_F(LogDeathTest, AFailedSyncEndsTheProcess) {
  for (const char* path : {".log", "commit"}) {
    EXPECT_DEATH(
        {
          files_.fail({.operation = FileOperation::sync, .path_part = path});
          write(1, {"a", "b"});
        },
        "the sync of .* fails");
  }
  EXPECT_DEATH(
      {
        files_.fail({.operation = FileOperation::sync_directory, .path_part = "/ckpt/log"});
        write(1, {"a"});
      },
      "the sync of .* fails");
}

TEST_F(LogTest, PassesItsKillPointsInOrder) {
  Texts passed;
  set_kill_point_hook([&](std::string_view place) { passed.emplace_back(place); });
  fiber([&] {
    Log log(runtime_, directory, {}, {.segment_bytes = 1, .name = "wal"});
    log.append("first");
    log.append("second");
    while (!log.durable(log.end())) sim_.pause();
    log.remove_before(2);
  });
  set_kill_point_hook({});
  const Texts group = {"wal.rotate",     "wal.before_write",  "wal.mid_record",  "wal.before_sync",
                       "wal.after_sync", "wal.before_commit", "wal.after_commit"};
  Texts expected = group;
  expected.insert(expected.end(), group.begin(), group.end());
  expected.insert(expected.end(), {"wal.before_remove", "wal.mid_remove"});
  EXPECT_EQ(passed, expected);
}

// The example of docs/formats.md, "Logs". Files that were written once must be readable for ever: a change of these
// bytes means a new version, and a test that still reads the old ones.
class LogBytesTest : public LogTest {
 protected:
  static std::string hex(std::string_view bytes) {
    static constexpr char digits[] = "0123456789abcdef";
    std::string text;
    for (const char byte : bytes) {
      text += digits[static_cast<unsigned char>(byte) >> 4];
      text += digits[static_cast<unsigned char>(byte) & 15];
    }
    return text;
  }
};

TEST_F(LogBytesTest, AreThoseOfTheDocument) {
  write(1, {"hello"});
  write(2, {"a", "bc"});
  EXPECT_EQ(hex(read_file(files_, directory + "/0000000001-0000000001.log")),
            "534c554c01000000010000000000000001000000000000000000000000000000"
            "00000000000000000000000000000000000000007209fdb205000000eda683df"
            "68656c6c6f");
  EXPECT_EQ(hex(read_file(files_, directory + "/0000000002-0000000002.log")),
            "534c554c01000000020000000000000002000000000000000100000000000000"
            "0100000000000000450000000000000000000000c2311c430100000088244996"
            "6102000000d9f0da6c6263");
  const std::string commits = read_file(files_, directory + "/commit-0000000002");
  EXPECT_EQ(commits.size(), 8'192u);
  EXPECT_EQ(hex(commits.substr(0, 56)),
            "534c554301000000010000000000000002000000000000000200000000000000"
            "380000000000000041000000000000004ebcc2db27e961f2");
  EXPECT_EQ(hex(commits.substr(4'096, 56)),
            "534c554301000000020000000000000002000000000000000200000000000000"
            "41000000000000004b00000000000000e3b55255ee1442f7");
}

/// Threads and files of this machine.
class LogOnThisMachine : public ::testing::Test {
 protected:
  LogOnThisMachine() {
    std::string pattern = ::testing::TempDir() + "/sluice-log-XXXXXX";
    root_ = ::mkdtemp(pattern.data());
  }
  ~LogOnThisMachine() override { system_runtime().files().remove_all(root_); }

  std::string root_;
};

using LogOnThisMachineDeathTest = LogOnThisMachine;

// Killed at the third pass of each place; then the next owner goes on.
TEST_F(LogOnThisMachineDeathTest, SurvivesAKillAtEachOfItsPlaces) {
  FileSystem& files = system_runtime().files();
  const std::map<std::string, std::size_t> records_left = {
      {"rotate", 2},        {"before_write", 2}, {"mid_record", 2},    {"before_sync", 3}, {"after_sync", 3},
      {"before_commit", 3}, {"after_commit", 3}, {"before_remove", 3}, {"mid_remove", 3}};
  for (const auto& [place, records] : records_left) {
    SCOPED_TRACE(place);
    const std::string at = root_ + "/" + place;
    const bool removes = place.ends_with("_remove");
    EXPECT_EXIT(
        {
          ::setenv("SLUICE_KILL", ("wal." + place + (removes ? ":1" : ":3")).c_str(), 1);
          arm_kill_points_from_environment();
          Log log(system_runtime(), at, {}, {.segment_bytes = 1, .name = "wal"});
          for (int i = 0; i < 6; ++i) log.wait_durable(log.append("record " + std::to_string(i)));
          log.remove_before(4);
        },
        ::testing::KilledBySignal(SIGKILL), "");
    const std::uint64_t from = removes ? 4 : 0;
    const Reading reading = read_all(files, from, at);
    EXPECT_EQ(reading.texts.size(), records);
    EXPECT_EQ(reading.content.torn_bytes > 0, place == "mid_record");
    {
      Log next(system_runtime(), at, reading.content, {.epoch = 2});
      next.append("next");
      if (removes) next.remove_before(4);
    }
    Texts expected = reading.texts;
    expected.emplace_back("next");
    EXPECT_EQ(read_all(files, from, at).texts, expected);
    EXPECT_THAT(read_all(files, from, at).content.strays, IsEmpty());
  }
}

TEST_F(LogOnThisMachine, KeepsTheOrderOfManyThreads) {
  HandRuntime runtime;
  std::mutex mutex;
  std::map<std::uint64_t, std::string> by_end;
  for (std::uint64_t epoch = 1; epoch <= 2; ++epoch) {
    const LogContent content = read_all(runtime.files(), 0, root_ + "/log").content;
    Log log(runtime, root_ + "/log", content, {.epoch = epoch, .segment_bytes = 20'000});
    std::vector<std::unique_ptr<Thread>> threads;
    for (int t = 0; t < 8; ++t) {
      threads.push_back(runtime.spawn("appender", [&, t] {
        for (int i = 0; i < 50; ++i) {
          std::string text = std::to_string(epoch) + " " + std::to_string(t) + " " + std::to_string(i);
          const bool large = i % 10 == 0;
          const MemoryBlock body = block_of(std::string(large ? 70'000 : 10, 'x'));
          const LogPosition at = log.append(text, body);
          {
            const std::lock_guard lock(mutex);
            by_end[(epoch << 40) + at.end] = text + std::string(body.bytes);
          }
          if (i % 3 == 0) log.wait_durable(at);
        }
      }));
    }
    for (const auto& thread : threads) thread->join();
  }
  Texts expected;
  for (auto& [end, text] : by_end) expected.push_back(std::move(text));
  const Reading reading = read_all(runtime.files(), 0, root_ + "/log");
  EXPECT_EQ(reading.texts == expected, true);
  EXPECT_EQ(read_log_record(runtime.files(), root_ + "/log", reading.handles[11]), expected[11]);
}

}  // namespace
}  // namespace sluice::detail
