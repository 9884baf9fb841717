#include "sluice/core/table.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "sluice/runtime/random.h"

namespace sluice::detail {
namespace {

template <class K, class V>
std::pair<std::uint32_t, bool> insert(KeyTable<K, V>& table, const K& key, V value, std::uint64_t seed = 0) {
  typename KeyTraits<K>::Scratch scratch;
  const auto& kept = KeyTraits<K>::probe(key, scratch);
  return table.find_or_insert(KeyTraits<K>::hash(kept, seed), kept, [&] { return std::move(value); });
}

template <class K, class V>
std::uint32_t find(const KeyTable<K, V>& table, const K& key, std::uint64_t seed = 0) {
  typename KeyTraits<K>::Scratch scratch;
  const auto& kept = KeyTraits<K>::probe(key, scratch);
  return table.find(KeyTraits<K>::hash(kept, seed), kept);
}

std::string text_key(std::uint64_t number) {
  // Lengths from 1 to about 30, so that some are inline and some are not.
  return std::string(number % 23, 'k') + std::to_string(number);
}

// Random operations against a std::unordered_map, and the order of entries against a vector that does as the table
// promises: a new key comes last, a removed one leaves its place.
template <class K, class MakeKey>
void run_operations(std::uint64_t seed, const MakeKey& make_key) {
  Random random(seed);
  KeyTable<K, std::string> table;
  std::unordered_map<K, std::string> expected;
  std::vector<std::optional<K>> order;  // nothing where a removed entry was
  const std::uint64_t keys = 1 + random.below(200);
  if (random.chance(0.3)) table.reserve(random.below(300));
  for (std::uint64_t steps = random.below(400); steps > 0; --steps) {
    const K key = make_key(random.below(keys));
    const std::uint64_t what = random.below(10);
    if (what < 5) {
      const std::string value = std::to_string(random.below(1000)) + std::string(random.below(30), '.');
      const auto [index, made] = insert(table, key, value, seed);
      ASSERT_EQ(made, expected.emplace(key, value).second);
      if (made) {
        ASSERT_EQ(index, order.size());
        order.push_back(key);
      }
      ASSERT_EQ(table[index].value, expected.at(key));
    } else if (what < 7) {
      const std::uint32_t index = find(table, key, seed);
      ASSERT_EQ(index != table.none, expected.contains(key));
      if (index != table.none) {
        ASSERT_EQ(table[index].value, expected.at(key));
      }
    } else if (what < 9) {
      const std::uint32_t index = find(table, key, seed);
      if (index == table.none) continue;
      if (index + 1 == order.size() && random.chance(0.5)) {
        table.remove_last();
        order.pop_back();
      } else {
        table.remove(index);
        order[index].reset();
      }
      expected.erase(key);
    } else if (random.chance(0.1)) {
      std::vector<std::optional<K>> left;
      table.compact([&](std::uint32_t from, std::uint32_t to) {
        ASSERT_TRUE(order[from].has_value());
        ASSERT_EQ(to, left.size());
        left.push_back(order[from]);
      });
      order = left;
      ASSERT_EQ(order.size(), expected.size());
    } else if (random.chance(0.02)) {
      table.clear();
      expected.clear();
      order.clear();
    }
    ASSERT_EQ(table.size(), order.size());
    ASSERT_EQ(table.size() - table.holes(), expected.size());
  }
  std::size_t i = 0;
  for (const auto& entry : table) {
    const auto& key = order[i++];
    if (!key.has_value()) continue;
    ASSERT_EQ(K(KeyTraits<K>::leave(entry.key)), *key);
    ASSERT_EQ(entry.value, expected.at(K(KeyTraits<K>::leave(entry.key))));
  }
  ASSERT_EQ(i, order.size());
}

TEST(KeyTable, DoesAsAMapWithTextKeys) {
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    ASSERT_NO_FATAL_FAILURE(run_operations<std::string>(seed, text_key)) << "seed " << seed;
  }
}

TEST(KeyTable, DoesAsAMapWithIntegerKeys) {
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    ASSERT_NO_FATAL_FAILURE(
        run_operations<std::int64_t>(seed, [](std::uint64_t n) { return static_cast<std::int64_t>(n * 0x10001) - 7; }))
        << "seed " << seed;
  }
}

TEST(KeyTable, DoesAsAMapWhenManyKeysHaveOneHash) {
  // Hashes are given by hand: 4 slots for all keys, two tags, so that probing runs over the end of the slots.
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    Random random(seed);
    KeyTable<std::int64_t, std::int64_t> table;
    std::unordered_map<std::int64_t, std::int64_t> expected;
    for (int steps = 0; steps < 200; ++steps) {
      const auto key = static_cast<std::int64_t>(random.below(50));
      const std::uint64_t hash =
          (static_cast<std::uint64_t>(key % 2) << 32) | (~0ULL >> 40 << 2) | static_cast<std::uint64_t>(key % 4);
      if (random.chance(0.6)) {
        const bool made = table.find_or_insert(hash, key, [&] { return key * 3; }).second;
        ASSERT_EQ(made, expected.emplace(key, key * 3).second);
      } else if (const std::uint32_t index = table.find(hash, key); index != table.none) {
        ASSERT_EQ(table[index].value, key * 3);
        table.remove(index);
        ASSERT_EQ(expected.erase(key), 1U);
      } else {
        ASSERT_FALSE(expected.contains(key));
      }
      ASSERT_EQ(table.size() - table.holes(), expected.size());
    }
    for (const auto& [key, value] : expected) {
      const std::uint64_t hash =
          (static_cast<std::uint64_t>(key % 2) << 32) | (~0ULL >> 40 << 2) | static_cast<std::uint64_t>(key % 4);
      ASSERT_NE(table.find(hash, key), table.none) << "seed " << seed;
    }
  }
}

TEST(KeyTable, IsEmptyAtFirstAndFindsNothing) {
  const KeyTable<std::string, int> table;
  EXPECT_EQ(table.size(), 0U);
  EXPECT_EQ(find(table, std::string("x")), table.none);
  EXPECT_EQ(table.begin(), table.end());
  EXPECT_EQ(table.bytes(), 0U);
}

TEST(KeyTable, KeepsTheOrderOfFirstInsertionThroughGrowth) {
  KeyTable<std::int64_t, int> table;
  for (int i = 0; i < 100'000; ++i) insert(table, std::int64_t{i} * 7919 % 100'003, i);
  int expected = 0;
  for (const auto& entry : table) {
    ASSERT_EQ(entry.value, expected);
    ASSERT_EQ(entry.key, std::int64_t{expected} * 7919 % 100'003);
    ++expected;
  }
  EXPECT_EQ(expected, 100'000);
}

TEST(KeyTable, KeepsThePlacesOfOthersWhenAnEntryIsRemovedAndPutsOneThatComesBackLast) {
  KeyTable<std::int64_t, int> table;
  for (int i = 0; i < 5; ++i) insert(table, std::int64_t{i}, i);
  table.remove(1);
  EXPECT_EQ(find(table, std::int64_t{1}), table.none);
  EXPECT_EQ(find(table, std::int64_t{4}), 4U);
  EXPECT_EQ(insert(table, std::int64_t{1}, 10), std::pair(5U, true));
  table.compact([](std::uint32_t, std::uint32_t) {});
  EXPECT_EQ(table.size(), 5U);
  EXPECT_EQ(find(table, std::int64_t{2}), 1U);
  EXPECT_EQ(find(table, std::int64_t{1}), 4U);
}

TEST(KeyTable, GivesBackTheBytesOfKeysThatCameAndWent) {
  KeyTable<std::string, int> table;
  std::size_t most = 0;
  for (int i = 0; i < 100'000; ++i) {
    const std::uint32_t index = insert(table, std::string(40, 'k') + std::to_string(i), i).first;
    table.remove(index);
    if (table.holes() > 100) table.compact([](std::uint32_t, std::uint32_t) {});
    most = std::max(most, table.bytes());
  }
  EXPECT_LT(most, 128U << 10);
}

TEST(KeyTable, CopiesLongKeysSoThatTheirSourceMayGo) {
  KeyTable<std::string_view, int> table;
  {
    std::string key = "a key that is longer than twelve bytes";
    insert(table, std::string_view(key), 1);
    key.assign(key.size(), '#');
  }
  EXPECT_EQ(find(table, std::string_view("a key that is longer than twelve bytes")), 0U);
}

TEST(KeyTable, DestroysEachValueOnce) {
  const auto counted = std::make_shared<int>(0);
  {
    KeyTable<std::int64_t, std::shared_ptr<int>> table;
    for (std::int64_t i = 0; i < 1000; ++i) insert(table, i, std::shared_ptr<int>(counted));
    EXPECT_EQ(counted.use_count(), 1001);
    for (std::uint32_t i = 0; i < 500; ++i) table.remove(i * 2);
    table.compact([](std::uint32_t, std::uint32_t) {});
    EXPECT_EQ(counted.use_count(), 501);
    KeyTable<std::int64_t, std::shared_ptr<int>> other = std::move(table);
    EXPECT_EQ(counted.use_count(), 501);
    other.clear();
    EXPECT_EQ(counted.use_count(), 1);
    insert(other, std::int64_t{1}, std::shared_ptr<int>(counted));
    EXPECT_EQ(counted.use_count(), 2);
  }
  EXPECT_EQ(counted.use_count(), 1);
}

TEST(KeyTable, IsUnchangedWhenTheValueCannotBeMade) {
  KeyTable<std::int64_t, std::string> table;
  insert(table, std::int64_t{1}, std::string("one"));
  const auto hash = KeyTraits<std::int64_t>::hash(2, 0);
  EXPECT_THROW(table.find_or_insert(hash, 2, []() -> std::string { throw std::runtime_error("no"); }),
               std::runtime_error);
  EXPECT_EQ(table.size(), 1U);
  EXPECT_EQ(find(table, std::int64_t{2}), table.none);
  EXPECT_EQ(find(table, std::int64_t{1}), 0U);
}

TEST(KeyTable, CanBeClearedAndFilledAgain) {
  KeyTable<std::string, int> table;
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 1000; ++i) {
      ASSERT_TRUE(insert(table, text_key(static_cast<std::uint64_t>(i + round)), i).second);
    }
    EXPECT_EQ(find(table, text_key(static_cast<std::uint64_t>(round))), 0U);
    table.clear();
    EXPECT_EQ(table.size(), 0U);
    EXPECT_EQ(find(table, text_key(static_cast<std::uint64_t>(round))), table.none);
  }
}

TEST(KeyTable, ReservesOnceForWhatWasAnnounced) {
  KeyTable<std::int64_t, std::int64_t> table;
  table.reserve(10'000);
  const std::size_t bytes = table.bytes();
  for (std::int64_t i = 0; i < 10'000; ++i) insert(table, i, i);
  EXPECT_EQ(table.bytes(), bytes);
}

}  // namespace
}  // namespace sluice::detail
