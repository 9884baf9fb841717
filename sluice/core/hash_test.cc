#include "sluice/core/hash.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "sluice/core/key.h"
#include "sluice/runtime/memory.h"
#include "sluice/runtime/random.h"

namespace sluice::detail {
namespace {

constexpr std::size_t page_bytes = 4096;

template <class K>
std::uint64_t hash_of(const K& key, std::uint64_t seed = 0) {
  typename KeyTraits<K>::Scratch scratch;
  return KeyTraits<K>::hash(KeyTraits<K>::probe(key, scratch), seed);
}

// The values come from a second implementation of docs/formats.md, in Python. They reach the disk: if this test fails,
// the code is wrong, never the test.
TEST(Hash, OfTextIsWhatTheFormatSays) {
  struct Golden {
    std::string text;
    std::uint64_t hash;
    std::uint64_t seeded;
  };
  const std::vector<Golden> goldens = {
      {"", 0x1ff5c2923a788d2c, 0x7a159a859035c454},
      {"a", 0x95969aeedc779214, 0xe4f46245aab462fb},
      {"abc", 0x2389ad11c7095d29, 0xa5608aa2afec4ded},
      {"abcdefghijkl", 0x256e44c4f811bb0b, 0x7739406b2eea3a3a},
      {"abcdefghijklm", 0x21d0eac992f8b449, 0x980b0ec6cb0380d2},
      {"abcdefghijklmno", 0x19e5dbaa02cf4323, 0x670145170cb7b072},
      {"abcdefghijklmnop", 0x3042ccd9d5ecf379, 0x8f1bb13f16f7ba4d},
      {"abcdefghijklmnopq", 0xb9e866fd733d9368, 0xc88d047838c47e31},
      {std::string(100, 'x'), 0xc34e2d6a097758c6, 0x1042af31b62afa3a},
  };
  for (const Golden& golden : goldens) {
    EXPECT_EQ(hash_of(std::string_view(golden.text)), golden.hash) << golden.text;
    EXPECT_EQ(hash_of(golden.text), golden.hash) << golden.text;
    EXPECT_EQ(hash_of(std::string_view(golden.text), 0x0123456789abcdef), golden.seeded) << golden.text;
  }
}

TEST(Hash, OfPlainValuesIsTakenOverTheirBytes) {
  EXPECT_EQ(hash_of(std::int64_t{0}), 0xc7d1d40f25d6444fU);
  EXPECT_EQ(hash_of(std::int64_t{1}), 0x671dff23c2d53abeU);
  EXPECT_EQ(hash_of(std::int64_t{-1}), 0x2f58b4aa285b98c5U);
  EXPECT_EQ(hash_of(std::int64_t{1} << 40), 0x5df6b086e2ba6defU);
  EXPECT_EQ(hash_of(std::int32_t{7}), 0xc2ba26b28e5a6a8dU);
  EXPECT_EQ(hash_of(0.5), 0x7c3bc86570951bf4U);
  EXPECT_EQ(hash_of(std::array<std::int64_t, 2>{1, 2}), 0x1ad77d3e020a1e37U);
}

TEST(Hash, OfOtherKeysIsTakenOverTheirCodecBytes) {
  using Key = std::tuple<std::string, std::int32_t>;
  EXPECT_EQ(hash_of(Key{"ab", 5}), 0x692b9bb76371a715U);
  EXPECT_EQ(hash_of(Key{"abcdefghijkl", 5}), 0xcfa3b11b86bf6670U);
}

TEST(Hash, OfADoubleTellsZeroFromMinusZero) {
  EXPECT_EQ(hash_of(-0.0), 0x8a729a321593b73dU);
  EXPECT_NE(hash_of(-0.0), hash_of(0.0));
  EXPECT_FALSE(KeyTraits<double>::equal(0.0, -0.0));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(KeyTraits<double>::equal(nan, nan));
}

TEST(Hash, OfTextDoesNotDependOnWhereItLies) {
  Random random(1);
  for (std::size_t size = 0; size < 70; ++size) {
    std::string text;
    for (std::size_t i = 0; i < size; ++i) text += static_cast<char>(random.below(256));
    std::vector<char> memory(128);
    for (std::size_t at = 0; at < 17; ++at) {
      std::memset(memory.data(), 0xA5, memory.size());
      if (size != 0) std::memcpy(memory.data() + at, text.data(), size);
      EXPECT_EQ(hash_of(std::string_view(memory.data() + at, size), 9), hash_of(text, 9)) << size;
    }
  }
}

TEST(Hash, HasNoCollisionsAmongManyKeys) {
  std::set<std::uint64_t> hashes;
  for (std::int64_t key = 0; key < 100'000; ++key) hashes.insert(hash_of(key));
  for (int key = 0; key < 100'000; ++key) hashes.insert(hash_of("key-" + std::to_string(key)));
  for (int key = 0; key < 100'000; ++key) hashes.insert(hash_of("a much longer key-" + std::to_string(key)));
  EXPECT_EQ(hashes.size(), 300'000U);
}

TEST(KeyGroups, AreTheTopBitsOfTheHash) {
  EXPECT_EQ(key_group(0), 0U);
  EXPECT_EQ(key_group(~0ULL), key_groups - 1);
  EXPECT_EQ(key_group(1ULL << 54), 1U);
}

TEST(PartitionOfHash, IsEvenForEveryKindOfKey) {
  for (const std::size_t partitions : {std::size_t{2}, std::size_t{3}, std::size_t{7}, std::size_t{16}}) {
    std::vector<std::vector<int>> counts(4, std::vector<int>(partitions));
    for (int i = 0; i < 70'000; ++i) {
      ++counts[0][partition_of_hash(hash_of(std::int64_t{i}), partitions)];
      ++counts[1][partition_of_hash(hash_of(i * 0.25), partitions)];
      ++counts[2][partition_of_hash(hash_of("u" + std::to_string(i)), partitions)];
      ++counts[3][partition_of_hash(hash_of("/a/long/path/number/" + std::to_string(i)), partitions)];
    }
    for (const std::vector<int>& count : counts) {
      for (const int c : count) EXPECT_NEAR(c, 70'000.0 / static_cast<double>(partitions), 700) << partitions;
    }
  }
}

TEST(PartitionOfHash, IsMonotoneAndGivesEveryPartitionItsShareOfTheGroups) {
  for (std::size_t partitions = 1; partitions <= key_groups; ++partitions) {
    std::vector<std::uint32_t> groups(partitions);
    std::uint32_t before = 0;
    for (std::uint64_t group = 0; group < key_groups; ++group) {
      const std::uint32_t partition = partition_of_hash(group << (64 - key_group_bits), partitions);
      ASSERT_GE(partition, before);
      ASSERT_LT(partition, partitions);
      before = partition;
      ++groups[partition];
    }
    for (const std::uint32_t count : groups) {
      ASSERT_GE(count, key_groups / partitions);
      ASSERT_LE(count, key_groups / partitions + 1);
    }
  }
}

TEST(Text, IsEqualWhenTheBytesAre) {
  Random random(2);
  for (std::size_t size = 0; size < 40; ++size) {
    std::string text;
    for (std::size_t i = 0; i < size; ++i) text += static_cast<char>(random.below(256));
    const std::string copy = text;
    EXPECT_TRUE(Text(text) == Text(copy));
    EXPECT_EQ(Text(text).view(), copy);
    EXPECT_EQ(Text(text).size(), size);
    for (std::size_t i = 0; i < size; ++i) {
      std::string other = text;
      other[i] = static_cast<char>(other[i] ^ 1);
      EXPECT_FALSE(Text(text) == Text(other)) << size << ' ' << i;
    }
    EXPECT_FALSE(Text(text) == Text(text + '\0')) << size;
  }
}

TEST(Text, LiesInlineUpTo12Bytes) {
  const std::string twelve = "abcdefghijkl";
  const std::string thirteen = "abcdefghijklm";
  const Text inline_text(twelve);
  EXPECT_TRUE(inline_text.is_short());
  EXPECT_NE(inline_text.data(), twelve.data());
  const Text view(thirteen);
  EXPECT_FALSE(view.is_short());
  EXPECT_EQ(view.data(), thirteen.data());
}

TEST(Text, OfADefaultStringViewIsEmpty) {
  const Text text{std::string_view()};
  EXPECT_EQ(text.view(), "");
  EXPECT_TRUE(text == Text(std::string_view("")));
  EXPECT_TRUE(text == Text());
  EXPECT_EQ(text.hash(3), Text(std::string_view("")).hash(3));
}

TEST(Text, AtTheEndOfAPageReadsNothingBehindIt) {
  // The second page is given back: touching it ends the process.
  char* const pages = allocate_pages(2 * page_bytes);
  free_pages(pages + page_bytes, page_bytes);
  for (std::size_t size = 0; size <= 40; ++size) {
    const std::string expected(size, 'q');
    for (std::size_t gap = 0; gap < 20; ++gap) {
      std::memset(pages, 0x5A, page_bytes);
      char* const at = pages + page_bytes - size - gap;
      std::memset(at, 'q', size);
      const Text text(at, size);
      ASSERT_TRUE(text == Text(expected)) << size << ' ' << gap;
      ASSERT_EQ(text.hash(0), hash_of(expected));
      ASSERT_EQ(text.view(), expected);
    }
  }
  free_pages(pages, page_bytes);
}

TEST(Text, InAnArenaDoesNotNeedItsSource) {
  Arena arena;
  std::string source = "a text that is long enough to lie outside";
  Text text(source);
  text.rest(arena);
  const std::string copy = source;
  source.assign(source.size(), '#');
  EXPECT_EQ(text.view(), copy);
  EXPECT_TRUE(text == Text(copy));
}

TEST(Key, OfACodecComesBackAsItWas) {
  using Key = std::tuple<std::string, std::vector<int>, double>;
  const Key key{"name", {1, 2, 3}, 0.5};
  KeyTraits<Key>::Scratch scratch;
  Arena arena;
  Text kept = KeyTraits<Key>::probe(key, scratch);
  KeyTraits<Key>::rest(kept, arena);
  const Text other = KeyTraits<Key>::probe(Key{"name", {1, 2, 4}, 0.5}, scratch);
  EXPECT_FALSE(KeyTraits<Key>::equal(kept, other));
  EXPECT_EQ(KeyTraits<Key>::leave(kept), key);
}

TEST(Key, OfTextLeavesAsAViewOfWhatIsKept) {
  const std::string text = "short";
  KeyTraits<std::string_view>::Scratch scratch;
  const Text kept = KeyTraits<std::string_view>::probe(text, scratch);
  const std::string_view left = KeyTraits<std::string_view>::leave(kept);
  EXPECT_EQ(left, "short");
  EXPECT_GE(left.data(), reinterpret_cast<const char*>(&kept));
  EXPECT_LT(left.data(), reinterpret_cast<const char*>(&kept + 1));
}

}  // namespace
}  // namespace sluice::detail
