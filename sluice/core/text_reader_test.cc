#include "sluice/core/text_reader.h"

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/core/stores.h"
#include "sluice/runtime/random.h"
#include "sluice/testkit/simulation.h"

namespace sluice::detail {
namespace {

using testing::Simulation;

constexpr std::size_t buffer_bytes = 256 << 10;
constexpr std::uint64_t too_long_counter = 77;

/// Keeps lines as strings.
class Lines : public Pipe {
 public:
  explicit Lines(std::size_t most = ~std::size_t{0}) : most_(most) {}
  void push(const void* records, std::size_t count) override {
    const auto* lines = static_cast<const std::string_view*>(records);
    for (std::size_t i = 0; i < count; ++i) all.emplace_back(lines[i]);
  }
  void finish() override {}
  bool full() const override { return all.size() >= most_; }
  std::vector<std::string> all;

 private:
  std::size_t most_;
};

struct Expected {
  std::vector<std::string> lines;
  std::int64_t too_long = 0;
};

/// What the lines of `text` are that begin in [begin, end): plain code, a byte at a time.
Expected lines_of(std::string_view text, std::size_t begin = 0, std::size_t end = ~std::size_t{0},
                  std::size_t line_bytes_max = 1 << 20) {
  Expected expected;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t stop = at;
    while (stop < text.size() && text[stop] != '\n') ++stop;
    std::string line(text.substr(at, stop - at));
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (at >= begin && at < end) {
      if (line.size() > line_bytes_max) {
        ++expected.too_long;
      } else {
        expected.lines.push_back(line);
      }
    }
    at = stop + 1;
  }
  return expected;
}

/// A file system and everything else that a task has. In the simulation, so that files cost nothing.
class TextReader : public ::testing::Test {
 protected:
  void write(const std::string& path, std::string_view bytes) {
    sim_.run([&] { runtime().files().create(path)->append(bytes); });
  }
  Expected read(const TextRange& range, std::size_t line_bytes_max = 1 << 20, std::size_t most = ~std::size_t{0}) {
    Expected got;
    sim_.run([&] {
      TaskContext task(environment_, {}, nullptr);
      Lines lines(most);
      TextReadOptions options;
      options.line_bytes_max = line_bytes_max;
      options.too_long_counter = too_long_counter;
      read_text_range({task, info_, 0}, range, options, lines);
      got = {std::move(lines.all), task.take_updates()[too_long_counter]};
    });
    return got;
  }
  Expected read(const std::string& path) { return read(TextRange{.path = path}); }
  TextRange part(const std::string& path, std::size_t begin, std::size_t end, std::size_t size) {
    return {.path = path, .begin = begin, .end = end, .size = size};
  }
  Code code_of(const TextRange& range) {
    try {
      read(range);
    } catch (const Error& error) {
      EXPECT_EQ(error.details().operation, "lines");
      return error.code();
    }
    return Code{};
  }
  Runtime& runtime() { return sim_; }

  Simulation sim_{1};
  BlockStore blocks_{sim_, {}};
  ShuffleStore shuffles_;
  StateStore states_;
  TaskEnvironment environment_{sim_, blocks_, shuffles_, states_};
  OperatorInfo info_{"lines", {}};
};

std::string gzip(std::string_view text, int level = 6) {
  z_stream stream{};
  deflateInit2(&stream, level, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string packed(deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

std::string zstd(std::string_view text, bool checksum = false) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, checksum ? 1 : 0);
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  packed.resize(ZSTD_compress2(context, packed.data(), packed.size(), text.data(), text.size()));
  ZSTD_freeCCtx(context);
  return packed;
}

std::string random_text(Random& random, std::size_t lines, std::size_t line_bytes_max) {
  std::string text;
  for (std::size_t i = 0; i < lines; ++i) {
    text += std::string(random.chance(0.2) ? 0 : random.below(line_bytes_max + 1), static_cast<char>('a' + i % 26));
    if (random.chance(0.2)) text += '\r';
    text += '\n';
  }
  if (random.chance(0.5) && !text.empty()) text.pop_back();
  return text;
}

TEST_F(TextReader, GivesEachLineToTheRangeInWhichItBegins) {
  // Every way to cut these texts in three.
  const std::vector<std::string> texts = {"",
                                          "\n",
                                          "a",
                                          "a\n",
                                          "\na",
                                          "a\nb",
                                          "\n\n\n",
                                          "a\r\nb",
                                          "\r\n\r\n",
                                          "ab\n\ncd\n",
                                          "a\rb\r\nc\r",
                                          "\r",
                                          "abc\r\n\r\nde\n\nf"};
  for (const std::string& text : texts) {
    write("/t", text);
    for (std::size_t first = 0; first <= text.size(); ++first) {
      for (std::size_t second = first; second <= text.size(); ++second) {
        const std::size_t cuts[] = {0, first, second, text.size()};
        for (int p = 0; p < 3; ++p) {
          EXPECT_EQ(read(part("/t", cuts[p], cuts[p + 1], text.size())).lines,
                    lines_of(text, cuts[p], cuts[p + 1]).lines)
              << ::testing::PrintToString(text) << " [" << cuts[p] << ',' << cuts[p + 1] << ')';
        }
      }
    }
  }
}

TEST_F(TextReader, GivesEveryLineOnceHoweverATextIsCut) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Random random(seed);
    const std::string text = random_text(random, random.below(60), 1 + random.below(40));
    write("/t", text);
    std::vector<std::size_t> cuts{0, text.size()};
    for (std::uint64_t i = random.below(12); i > 0; --i) cuts.push_back(random.below(text.size() + 1));
    std::sort(cuts.begin(), cuts.end());
    std::vector<std::string> all;
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      const Expected got = read(part("/t", cuts[i], cuts[i + 1], text.size()));
      EXPECT_EQ(got.lines, lines_of(text, cuts[i], cuts[i + 1]).lines) << "seed " << seed;
      all.insert(all.end(), got.lines.begin(), got.lines.end());
    }
    EXPECT_EQ(all, lines_of(text).lines) << "seed " << seed;
  }
}

TEST_F(TextReader, GivesEveryLineOnceWhenLinesAreLongerThanTheBuffer) {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    Random random(seed);
    std::string text;
    while (text.size() < 4 * buffer_bytes) {
      text += random_text(random, random.below(20), 30);
      text += std::string(random.below(2 * buffer_bytes), 'L') + (random.chance(0.5) ? "\n" : "\r\n");
    }
    write("/t", text);
    std::vector<std::size_t> cuts{0, text.size()};
    for (int i = 0; i < 6; ++i) cuts.push_back(random.below(text.size() + 1));
    cuts.push_back(buffer_bytes);
    cuts.push_back(text.find('\n', random.below(text.size() - 1)) + 1);
    std::sort(cuts.begin(), cuts.end());
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      ASSERT_TRUE(read(part("/t", cuts[i], cuts[i + 1], text.size())).lines ==
                  lines_of(text, cuts[i], cuts[i + 1]).lines)
          << "seed " << seed << " range " << cuts[i] << ' ' << cuts[i + 1];
    }
  }
}

TEST_F(TextReader, StopsWhereTheBufferTheLineAndTheRangeEndTogether) {
  // The range ends at a line's end, which is where one read ended too.
  std::string text;
  while (text.size() < 3 * buffer_bytes) text += "0123456789abcde\n";
  write("/t", text);
  for (const std::size_t end : {buffer_bytes, 2 * buffer_bytes}) {
    EXPECT_EQ(read(part("/t", 0, end, text.size())).lines.size(), end / 16);
    EXPECT_EQ(read(part("/t", end, text.size(), text.size())).lines.size(), (text.size() - end) / 16);
    EXPECT_EQ(read(part("/t", end - buffer_bytes, end, text.size())).lines.size(), buffer_bytes / 16);
  }
}

TEST_F(TextReader, CountsAndSkipsLinesThatAreTooLong) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    Random random(seed);
    const std::size_t most = 1 + random.below(30);
    const std::string text = random_text(random, 1 + random.below(50), 2 * most);
    write("/t", text);
    const std::size_t cut = random.below(text.size() + 1);
    for (const auto& [begin, end] : {std::pair{std::size_t{0}, cut}, std::pair{cut, text.size()}}) {
      const Expected got = read(part("/t", begin, end, text.size()), most);
      const Expected expected = lines_of(text, begin, end, most);
      EXPECT_EQ(got.lines, expected.lines) << "seed " << seed;
      EXPECT_EQ(got.too_long, expected.too_long) << "seed " << seed;
    }
  }
}

TEST_F(TextReader, CountsALineThatIsTooLongOnceWhereverItEnds) {
  // Lines around the limit and around the size of the buffer, with both kinds of ends, at all distances from it.
  for (const std::size_t most : {buffer_bytes / 2, buffer_bytes - 3, buffer_bytes, buffer_bytes + 7}) {
    for (const std::string end : {"\n", "\r\n", ""}) {
      for (std::size_t size = most - 2; size <= most + 2; ++size) {
        for (std::size_t before = 0; before < 3; ++before) {
          const std::string text =
              std::string(before, '\n') + std::string(size, 'x') + end + (end.empty() ? "" : "last\n");
          write("/t", text);
          const Expected got = read(part("/t", 0, text.size(), text.size()), most);
          const Expected expected = lines_of(text, 0, text.size(), most);
          EXPECT_EQ(got.lines.size(), expected.lines.size()) << most << ' ' << size << ' ' << before;
          EXPECT_EQ(got.too_long, expected.too_long) << most << ' ' << size << ' ' << before;
        }
      }
    }
  }
}

TEST_F(TextReader, KeepsALineOfExactlyTheLimitWhoseEndIsCutByTheBuffer) {
  // The buffer ends between "\r" and "\n" of a line that is just short enough.
  for (const std::size_t most : {buffer_bytes - 1, 2 * buffer_bytes - 1}) {
    const std::string text = std::string(most, 'x') + "\r\nafter\n";
    write("/t", text);
    const Expected got = read(part("/t", 0, text.size(), text.size()), most);
    EXPECT_EQ(got.lines.size(), 2U);
    EXPECT_EQ(got.too_long, 0);
  }
}

TEST_F(TextReader, DropsAnOverlongLineThatCrossesTheEndOfItsRange) {
  const std::string text = "a\n" + std::string(3 * buffer_bytes, 'x') + "\nb\n";
  write("/t", text);
  for (const std::size_t cut :
       {std::size_t{3}, buffer_bytes, buffer_bytes + 1, 2 * buffer_bytes + 5, text.size() - 2, text.size() - 1}) {
    const Expected first = read(part("/t", 0, cut, text.size()), 100);
    const Expected second = read(part("/t", cut, text.size(), text.size()), 100);
    EXPECT_EQ(first.lines, lines_of(text, 0, cut, 100).lines) << cut;
    EXPECT_EQ(second.lines, lines_of(text, cut, text.size(), 100).lines) << cut;
    EXPECT_EQ(first.too_long, 1);
    EXPECT_EQ(second.too_long, 0);
  }
}

TEST_F(TextReader, StopsEarlyWhenNoMoreIsWanted) {
  std::string text;
  for (int i = 0; i < 200'000; ++i) text += "line\n";
  write("/t", text);
  EXPECT_LT(read({.path = "/t"}, 1 << 20, 1).lines.size(), 100'000U);
}

TEST_F(TextReader, ReadsNoMoreThanTheFileHadWhenItWasChosen) {
  write("/t", "one\ntwo\nthree\n");
  EXPECT_EQ(read(part("/t", 0, ~std::size_t{0}, 8)).lines, (std::vector<std::string>{"one", "two"}));
  EXPECT_EQ(read(part("/t", 0, ~std::size_t{0}, 10)).lines, (std::vector<std::string>{"one", "two", "th"}));
  EXPECT_EQ(read(part("/t", 12, 14, 8)).lines, std::vector<std::string>());
}

TEST_F(TextReader, RefusesAFileThatIsGoneShorterOrAnother) {
  write("/t", "one\n");
  EXPECT_EQ(code_of({.path = "/none"}), Code::not_readable);
  EXPECT_EQ(code_of(part("/t", 0, 10, 10)), Code::file_changed);
  EXPECT_EQ(code_of({.path = "/t", .inode = 999}), Code::file_changed);
}

TEST_F(TextReader, TellsHowFarItReadTheBytesOfAFile) {
  write("/t", "one\ntwo\nthree");
  sim_.run([&] {
    TaskContext task(environment_, {}, nullptr);
    Lines lines;
    const auto file = runtime().files().open("/t");
    EXPECT_EQ(read_text_bytes({task, info_, 0}, *file, 4, 100, {}, lines), 9U);
    EXPECT_EQ(lines.all, (std::vector<std::string>{"two", "three"}));
  });
}

TEST_F(TextReader, ReadsGzipAlsoOfSeveralMembers) {
  Random random(1);
  const std::string text = random_text(random, 60'000, 40) + std::string(2 * buffer_bytes, 'y') + "\nend";
  write("/t.gz", gzip(text));
  EXPECT_TRUE(read("/t.gz").lines == lines_of(text).lines);
  for (const std::size_t cut : {std::size_t{0}, std::size_t{1}, text.size() / 3, text.size()}) {
    write("/m.gz", gzip(text.substr(0, cut)) + gzip("") + gzip(text.substr(cut), 0));
    EXPECT_TRUE(read("/m.gz").lines == lines_of(text).lines) << cut;
  }
}

TEST_F(TextReader, ReadsZstdAlsoOfSeveralFramesAndWithoutChecksum) {
  Random random(2);
  for (const bool checksum : {false, true}) {
    // Sizes around those of zstd's blocks and of the buffer, so that it holds output back at the end of its input.
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, std::size_t{130'000}, 2 * buffer_bytes,
                                    3 * buffer_bytes + 12'345, 5 * buffer_bytes}) {
      std::string text;
      while (text.size() < bytes) text += random_text(random, 50, 3000);
      write("/t.zst", zstd(text, checksum));
      EXPECT_TRUE(read("/t.zst").lines == lines_of(text).lines) << bytes;
      write("/m.zst", zstd(text, checksum) + zstd("", checksum) + zstd("more", !checksum));
      EXPECT_TRUE(read("/m.zst").lines == lines_of(text + "more").lines) << bytes;
    }
  }
}

TEST_F(TextReader, FailsOnCompressedDataCutAnywhere) {
  Random random(3);
  const std::string text = random_text(random, 60, 30);
  for (const auto& [name, packed] : {std::pair<std::string, std::string>{"/t.gz", gzip(text)},
                                     {"/t.zst", zstd(text)},
                                     {"/c.zst", zstd(text, true)}}) {
    for (std::size_t size = 1; size < packed.size(); ++size) {
      write(name, packed.substr(0, size));
      const Code code = code_of({.path = name});
      EXPECT_TRUE(code == Code::truncated_data || code == Code::corrupt_data) << name << ' ' << size;
    }
  }
}

TEST_F(TextReader, FailsOrReadsSomethingElseOnDamagedCompressedData) {
  Random random(4);
  const std::string text = random_text(random, 60, 30);
  int failures = 0;
  for (const auto& [name, packed] :
       {std::pair<std::string, std::string>{"/t.gz", gzip(text)}, {"/t.zst", zstd(text, true)}}) {
    for (int i = 0; i < 2000; ++i) {
      std::string damaged = packed;
      for (std::uint64_t n = 1 + random.below(3); n > 0; --n) {
        damaged[random.below(damaged.size())] = static_cast<char>(random.below(256));
      }
      write(name, damaged);
      const Code code = code_of({.path = name});
      EXPECT_TRUE(code == Code{} || code == Code::truncated_data || code == Code::corrupt_data) << name;
      failures += code == Code{} ? 0 : 1;
    }
  }
  EXPECT_GT(failures, 3000);
}

TEST_F(TextReader, TakesGarbageBehindAGzipMemberForDamage) {
  write("/t.gz", gzip("one\n") + "garbage");
  EXPECT_EQ(code_of({.path = "/t.gz"}), Code::corrupt_data);
}

TEST_F(TextReader, KnowsCompressedFilesByTheirNames) {
  EXPECT_TRUE(is_compressed("a.gz"));
  EXPECT_TRUE(is_compressed("dir/a.log.zst"));
  EXPECT_FALSE(is_compressed("a.gz.txt"));
  EXPECT_FALSE(is_compressed("gz"));
}

TEST(PushLines, CutsTextLikePlainCode) {
  Simulation sim(1);
  BlockStore blocks(sim, {});
  ShuffleStore shuffles;
  StateStore states;
  TaskEnvironment environment{sim, blocks, shuffles, states};
  TaskContext task(environment, {}, nullptr);
  const OperatorInfo info{"lines", {}};
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    Random random(seed);
    const std::string text = random_text(random, random.below(40), 1 + random.below(80));
    Lines lines;
    push_lines(task, text, lines);
    ASSERT_EQ(lines.all, lines_of(text).lines) << "seed " << seed;
    Lines within;
    TextReadOptions options;
    options.line_bytes_max = random.below(80);
    options.too_long_counter = too_long_counter;
    push_lines_within({task, info, 0}, text, options, within);
    const Expected expected = lines_of(text, 0, ~std::size_t{0}, options.line_bytes_max);
    ASSERT_EQ(within.all, expected.lines) << "seed " << seed;
    ASSERT_EQ(task.take_updates()[too_long_counter], expected.too_long) << "seed " << seed;
  }
}

}  // namespace
}  // namespace sluice::detail
