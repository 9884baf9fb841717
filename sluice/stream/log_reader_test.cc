// What reading does with files that are torn, flipped, cut, mixed up or newer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "sluice/runtime/errors.h"
#include "sluice/stream/log.h"
#include "sluice/stream/log_format.h"
#include "sluice/testkit/simulation.h"

namespace sluice::detail {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::Simulation;
using Texts = std::vector<std::string>;

const std::string directory = "/log";
const std::string first = directory + "/0000000001-0000000001.log";

/// The files of a directory: path, bytes.
using Image = std::map<std::string, std::string>;

Image image_of(FileSystem& files) {
  Image image;
  const auto entries = files.list(directory).value();
  for (const FileInfo& file : entries) image[file.path] = read_file(files, file.path);
  return image;
}

struct Reading {
  Texts texts;
  LogContent content;
  /// "" when the log was read.
  std::string error;
  Code code = Code::no_output;
};

class LogReaderTest : public ::testing::Test {
 protected:
  Image written() { return image_of(sim_.files()); }

  // Appends records as the owner of `epoch`: those of one group are made durable together.
  void write(std::uint64_t epoch, const std::vector<Texts>& groups, std::uint64_t segment_bytes = 1'000'000) {
    sim_.run([&] {
      const LogContent content = read_log(sim_.files(), directory, 0, [](const LogHandle&, std::string_view) {});
      Log log(sim_, directory, content, {.epoch = epoch, .segment_bytes = segment_bytes});
      for (const Texts& group : groups) {
        LogPosition last;
        for (const std::string& text : group) last = log.append(text);
        log.wait_durable(last);
      }
    });
  }

  // Reads a directory with these files.
  static Reading read(const Image& image, std::uint64_t from_segment = 0) {
    Simulation sim(1);
    FileSystem& files = sim.files();
    files.make_directories(directory);
    for (const auto& [path, bytes] : image) files.create(path)->append(bytes);
    Reading reading;
    try {
      reading.content = read_log(files, directory, from_segment,
                                 [&](const LogHandle&, std::string_view text) { reading.texts.emplace_back(text); });
    } catch (const Error& error) {
      reading.code = error.code();
      reading.error = error.details().why;
    }
    return reading;
  }

  // The commit file as it was before the last group.
  static std::string without_last_commit(std::string commits, std::uint64_t epoch) {
    const auto first_slot = decode_log_commit(commits, epoch, "");
    const auto second_slot = decode_log_commit(std::string_view(commits).substr(log_slot_stride), epoch, "");
    const bool second_is_last = second_slot && (!first_slot || second_slot->sequence > first_slot->sequence);
    commits.replace(second_is_last ? log_slot_stride : 0, log_slot_bytes, log_slot_bytes, '\0');
    return commits;
  }

  Simulation sim_{3};
};

TEST_F(LogReaderTest, ATornTailBeyondTheCommittedEndIsLeftOut) {
  write(1, {{"a", "bb"}, {"ccc", "dddd", "eeeee"}});
  Image image = written();
  std::string& commits = image[directory + "/commit-0000000001"];
  commits = without_last_commit(commits, 1);
  const std::string whole = image[first];
  const std::size_t committed = log_segment_header_bytes + 9 + 10;
  const std::size_t ends[] = {committed, committed + 11, committed + 11 + 12, whole.size()};
  ASSERT_EQ(ends[3], committed + 11 + 12 + 13);
  for (std::size_t cut = committed; cut <= whole.size(); ++cut) {
    for (const bool zero_filled : {false, true}) {
      image[first] = whole.substr(0, cut);
      if (zero_filled) image[first].resize(whole.size());
      const std::size_t records = static_cast<std::size_t>(std::upper_bound(ends, ends + 4, cut) - ends) - 1;
      Texts expected = {"a", "bb", "ccc", "dddd", "eeeee"};
      // The last byte may be 0 in the record, too.
      expected.resize(2 + records);
      const Reading reading = read(image);
      ASSERT_EQ(reading.error, "") << cut;
      ASSERT_EQ(reading.texts, expected) << cut;
      ASSERT_EQ(reading.content.segments[0].end, ends[records]) << cut;
      ASSERT_EQ(reading.content.torn_bytes, image[first].size() - ends[records]) << cut;
    }
  }
}

TEST_F(LogReaderTest, ATornTailBeforeTheCommittedEndIsDamage) {
  write(1, {{"a", "bb"}, {"ccc", "dddd", "eeeee"}});
  Image image = written();
  const std::string whole = image[first];
  for (std::size_t cut = 0; cut < whole.size(); ++cut) {
    for (const bool zero_filled : {false, true}) {
      image[first] = whole.substr(0, cut);
      if (zero_filled) image[first].resize(whole.size());
      const Reading reading = read(image);
      ASSERT_EQ(reading.code, Code::corrupt_data) << cut;
      ASSERT_THAT(reading.error, HasSubstr(first + " at byte ")) << cut;
    }
  }
}

// The same for what was linked by the next owner: it has no need of the commit file of the one before.
TEST_F(LogReaderTest, WhatANextOwnerHasLinkedIsCommitted) {
  write(1, {{"a", "bb"}, {"ccc", "dddd", "eeeee"}});
  write(2, {{"f"}});
  Image image = written();
  image.erase(directory + "/commit-0000000001");
  EXPECT_THAT(read(image).texts, ElementsAre("a", "bb", "ccc", "dddd", "eeeee", "f"));
  const std::string whole = image[first];
  image[first] = whole + "whatever a zombie writes";
  EXPECT_THAT(read(image).texts, ElementsAre("a", "bb", "ccc", "dddd", "eeeee", "f"));
  for (std::size_t cut = 0; cut < whole.size(); ++cut) {
    image[first] = whole.substr(0, cut);
    ASSERT_EQ(read(image).code, Code::corrupt_data) << cut;
  }
}

TEST_F(LogReaderTest, ASegmentThatIsTornAsAWholeIsLeftOut) {
  write(1, {{"a"}, {"b"}, {"c"}}, 1);
  Image image = written();
  const std::string third = directory + "/0000000001-0000000003.log";
  std::string& commits = image[directory + "/commit-0000000001"];
  commits = without_last_commit(commits, 1);
  const std::string whole = image[third];
  for (std::size_t cut = 0; cut < whole.size(); ++cut) {
    image[third] = whole.substr(0, cut);
    const Reading reading = read(image);
    ASSERT_THAT(reading.texts, ElementsAre("a", "b")) << cut;
    const bool has_header = cut >= log_segment_header_bytes;
    ASSERT_EQ(reading.content.segments.size(), has_header ? 3u : 2u);
    ASSERT_EQ(reading.content.strays.size(), has_header ? 0u : 1u);
    ASSERT_EQ(reading.content.torn_bytes, has_header ? cut - log_segment_header_bytes : cut);
  }
  // Not when a whole one follows on it.
  image[third] = whole;
  image[directory + "/0000000001-0000000002.log"].resize(10);
  EXPECT_EQ(read(image).code, Code::corrupt_data);
}

TEST_F(LogReaderTest, AnOwnerThatGotNowhereIsPassedOver) {
  write(1, {{"a"}});
  write(2, {{"b"}});
  Image image = written();
  const std::string second = directory + "/0000000002-0000000002.log";
  const std::string commits = directory + "/commit-0000000002";
  const std::string whole = image[second];
  for (const std::string& left : {std::string(), std::string(100, '\0'), std::string(log_commit_file_bytes, '\0')}) {
    image[commits] = left;
    for (std::size_t cut = 0; cut < log_segment_header_bytes; ++cut) {
      image[second] = whole.substr(0, cut);
      const Reading reading = read(image);
      ASSERT_THAT(reading.texts, ElementsAre("a")) << reading.error;
      ASSERT_THAT(reading.content.strays, ElementsAre(second));
      ASSERT_EQ(reading.content.next_segment, 2u);
    }
  }
  image.erase(commits);
  EXPECT_THAT(read(image).texts, ElementsAre("a"));
  image.erase(second);
  image[commits] = "";
  EXPECT_THAT(read(image).texts, ElementsAre("a"));
}

TEST_F(LogReaderTest, ADamagedSlotLeavesTheOther) {
  write(1, {{"a"}, {"b"}, {"c"}});
  Image image = written();
  const std::string whole = image[first];
  std::string& commits = image[directory + "/commit-0000000001"];
  const std::string good = commits;
  for (const std::size_t slot : {std::size_t{0}, log_slot_stride}) {
    commits = good;
    commits[slot + 20] ^= 1;
    image[first] = whole;
    EXPECT_THAT(read(image).texts, ElementsAre("a", "b", "c"));
    // What was committed before the last slot still is.
    image[first] = whole.substr(0, log_segment_header_bytes + 9);
    EXPECT_EQ(read(image).code, Code::corrupt_data);
  }
}

TEST_F(LogReaderTest, WithoutASlotATornTailIsRefused) {
  write(1, {{"a"}, {"b"}, {"c"}});
  Image image = written();
  std::string& commits = image[directory + "/commit-0000000001"];
  for (const std::size_t slot : {std::size_t{0}, log_slot_stride}) commits[slot + 20] ^= 1;
  EXPECT_THAT(read(image).texts, ElementsAre("a", "b", "c"));
  image[first].pop_back();
  const Reading reading = read(image);
  EXPECT_EQ(reading.code, Code::corrupt_data);
  EXPECT_THAT(reading.error, HasSubstr("commit-0000000001"));
  image[first].resize(log_segment_header_bytes - 1);
  EXPECT_EQ(read(image).code, Code::corrupt_data);
  image.erase(first);
  EXPECT_EQ(read(image).code, Code::corrupt_data);
}

// A second segment is not begun before the first group is committed, so here the commit file is not new but lost.
TEST_F(LogReaderTest, ALostCommitFileIsNotTakenForANewOne) {
  write(1, {{"a"}, {"b"}}, 1);
  Image image = written();
  image.erase(directory + "/commit-0000000001");
  EXPECT_THAT(read(image).texts, ElementsAre("a", "b"));
  std::string& second = image[directory + "/0000000001-0000000002.log"];
  second.pop_back();
  EXPECT_EQ(read(image).code, Code::corrupt_data);
  second.resize(10);
  EXPECT_EQ(read(image).code, Code::corrupt_data);
}

TEST_F(LogReaderTest, AMissingSegmentIsNamed) {
  write(1, {{"a"}, {"b"}, {"c"}}, 1);
  const Image image = written();
  for (const char* name : {"/0000000001-0000000001.log", "/0000000001-0000000002.log", "/0000000001-0000000003.log"}) {
    Image without = image;
    without.erase(directory + name);
    const Reading reading = read(without);
    EXPECT_EQ(reading.code, Code::truncated_data) << name;
    EXPECT_THAT(reading.error, HasSubstr(name));
  }
}

TEST_F(LogReaderTest, BytesThatLieElsewhereAreNoRecords) {
  write(1, {{"aaaa", "bbbb"}, {"cccc"}}, 1);
  const Image image = written();
  const std::string second = directory + "/0000000001-0000000002.log";
  const std::string third = directory + "/0000000001-0000000003.log";
  ASSERT_TRUE(image.contains(third));
  // Two records of the same length, one segment's place taken by another, or one file's name.
  Image mixed = image;
  std::swap(mixed[second], mixed[third]);
  EXPECT_EQ(read(mixed).code, Code::corrupt_data);
  mixed = image;
  mixed[second].replace(log_segment_header_bytes, 12, image.at(third).substr(log_segment_header_bytes, 12));
  EXPECT_EQ(read(mixed).code, Code::corrupt_data);
  mixed = image;
  mixed[directory + "/0000000002-0000000003.log"] = image.at(third);
  EXPECT_THAT(read(mixed).texts, ElementsAre("aaaa", "bbbb", "cccc"));
  mixed = image;
  mixed[directory + "/commit-0000000002"] = image.at(directory + "/commit-0000000001");
  EXPECT_EQ(read(mixed).code, Code::corrupt_data);
}

TEST_F(LogReaderTest, RecordsThatChangePlacesAreDamage) {
  write(1, {{"aaaa", "bbbb"}});
  write(2, {{"c"}});
  Image image = written();
  std::string& bytes = image[first];
  const std::string a = bytes.substr(56, 12), b = bytes.substr(68, 12);
  bytes.replace(56, 24, b + a);
  EXPECT_EQ(read(image).code, Code::corrupt_data);
}

TEST_F(LogReaderTest, ANewerFormatIsRefusedInWords) {
  write(1, {{"a"}});
  Image image = written();
  image[first][4] = 2;
  Reading reading = read(image);
  EXPECT_EQ(reading.code, Code::other_version);
  EXPECT_THAT(reading.error, HasSubstr(first + " has version 2 of the format of logs"));
  // A flipped bit of a slot is damage, not news.
  image = written();
  image[directory + "/commit-0000000001"][4] = 2;
  EXPECT_THAT(read(image).texts, ElementsAre("a"));
}

TEST_F(LogReaderTest, AnImpossibleLengthTakesNoMemory) {
  write(1, {{"a"}});
  Image image = written();
  std::string& commits = image[directory + "/commit-0000000001"];
  commits = without_last_commit(commits, 1);
  for (const std::uint32_t length : {0u, 2u, 1u << 30, (1u << 30) + 1, UINT32_MAX}) {
    image[first].replace(log_segment_header_bytes, 4, reinterpret_cast<const char*>(&length), 4);
    const Reading reading = read(image);
    EXPECT_THAT(reading.texts, IsEmpty());
    EXPECT_EQ(reading.content.torn_bytes, 9u);
  }
}

class LogFlipTest : public LogReaderTest {
 protected:
  // Flips 10,000 bits, one at a time. `lost_max`: records at the end that may be missing, since they are not committed.
  static void flip_bits(const Image& image, std::uint64_t seed, std::size_t lost_max) {
    const Reading whole = read(image);
    ASSERT_EQ(whole.error, "");
    std::vector<std::string> paths;
    for (const auto& [path, bytes] : image) paths.push_back(path);
    Random random(seed);
    int detected = 0, harmless = 0, lost = 0;
    for (int i = 0; i < 10'000; ++i) {
      Image flipped = image;
      const std::string& path = paths[random.below(paths.size())];
      std::string& bytes = flipped[path];
      std::size_t at = random.below(bytes.size());
      // Most of a commit file is nothing.
      if (parse_log_commit_path(path) && random.chance(0.95)) {
        at = random.below(log_slot_bytes) + (random.chance(0.5) ? log_slot_stride : 0);
      }
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << random.below(8)));
      const Reading reading = read(flipped);
      const std::string where = path + " at " + std::to_string(at);
      if (!reading.error.empty()) {
        ASSERT_TRUE(reading.code == Code::corrupt_data || reading.code == Code::truncated_data ||
                    reading.code == Code::other_version)
            << where << ": " << reading.error;
        ++detected;
      } else if (reading.texts == whole.texts) {
        ++harmless;
      } else {
        ASSERT_GE(reading.texts.size() + lost_max, whole.texts.size()) << where;
        ASSERT_TRUE(std::equal(reading.texts.begin(), reading.texts.end(), whole.texts.begin())) << where;
        ASSERT_GT(reading.content.torn_bytes, 0u) << where;
        ++lost;
      }
    }
    EXPECT_GT(detected, 2'000);
    EXPECT_GT(harmless, 500);
    EXPECT_EQ(lost > 0, lost_max > 0);
  }

  void write_several_owners() {
    write(1, {{"first", "second"}, {"third"}, {std::string(300, 'x')}}, 200);
    write(2, {{"fourth"}, {"fifth", std::string(40, 'y')}});
    write(5, {{"sixth"}, {"seventh"}, {"eighth", "ninth"}}, 100);
  }
};

TEST_F(LogFlipTest, EveryFlippedBitIsFoundOrHarmless) {
  write_several_owners();
  flip_bits(written(), 1, 0);
}

TEST_F(LogFlipTest, AFlippedBitLosesNothingThatWasCommitted) {
  write_several_owners();
  Image image = written();
  std::string& commits = image[directory + "/commit-0000000005"];
  commits = without_last_commit(commits, 5);
  flip_bits(image, 2, 2);
}

}  // namespace
}  // namespace sluice::detail
