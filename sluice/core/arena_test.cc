#include "sluice/core/arena.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <future>
#include <string>
#include <vector>

#include "sluice/runtime/random.h"

namespace sluice {
namespace {

TEST(Arena, TakesNoMemoryBeforeTheFirstAllocation) {
  Arena arena;
  EXPECT_EQ(arena.reserved_bytes(), 0u);
  EXPECT_EQ(arena.copy("").size(), 0u);
  EXPECT_NE(arena.copy("").data(), nullptr);
  EXPECT_EQ(arena.reserved_bytes(), 0u);
  EXPECT_EQ(arena.bytes(), 0u);
}

TEST(Arena, KeepsWhatWasWrittenThroughGrowthAndMoves) {
  Random random(1);
  Arena arena;
  std::vector<std::string> expected;
  std::vector<std::string_view> kept;
  std::size_t total = 0;
  for (int i = 0; i < 3000; ++i) {
    const std::size_t size = random.chance(0.01) ? random.below(3 << 20) : random.below(300);
    expected.emplace_back(size, static_cast<char>('a' + random.below(26)));
    kept.push_back(arena.copy(expected.back()));
    total += size;
    if (random.chance(0.01)) {
      Arena other = std::move(arena);
      EXPECT_EQ(arena.bytes(), 0u);
      arena = std::move(other);
    }
  }
  EXPECT_EQ(arena.bytes(), total);
  EXPECT_GE(arena.reserved_bytes(), total);
  EXPECT_EQ(kept, std::vector<std::string_view>(expected.begin(), expected.end()));
}

TEST(Arena, AlignsEveryAllocation) {
  Random random(2);
  Arena arena;
  for (int i = 0; i < 10'000; ++i) {
    const std::size_t align = std::size_t{1} << random.below(13);
    const char* at = arena.allocate(random.below(100), align);
    ASSERT_EQ(reinterpret_cast<std::uintptr_t>(at) % align, 0u);
    ASSERT_NE(at, nullptr);
  }
}

TEST(Arena, GrowsFromSmallSegmentsToLargeOnes) {
  Arena arena;
  arena.allocate(1);
  EXPECT_EQ(arena.reserved_bytes(), 4u << 10);
  while (arena.bytes() < (4 << 10)) arena.allocate(8);
  EXPECT_EQ(arena.reserved_bytes(), (4u << 10) + (64 << 10));
  while (arena.bytes() < (10 << 20)) arena.allocate(512);
  EXPECT_LE(arena.reserved_bytes(), 12u << 20);
}

TEST(Arena, ALargeAllocationDoesNotWasteTheSegmentInUse) {
  Arena arena;
  arena.allocate(8);
  arena.allocate(std::size_t{20} << 20);
  const std::size_t reserved = arena.reserved_bytes();
  for (int i = 0; i < 400; ++i) arena.allocate(8);
  EXPECT_EQ(arena.reserved_bytes(), reserved);
}

TEST(Arena, SegmentsAreUsedAgain) {
  {
    Arena first;
    first.allocate(100 << 10);
  }
  const std::size_t pooled = Arena::pooled_bytes();
  Arena second;
  second.allocate(100 << 10);
  EXPECT_EQ(Arena::pooled_bytes() + second.reserved_bytes(), pooled);
}

TEST(Arena, ThePoolIsBounded) {
  std::vector<Arena> arenas(30);
  for (Arena& arena : arenas) arena.allocate(10 << 20);
  arenas.clear();
  EXPECT_LE(Arena::pooled_bytes(), 256u << 20);
  EXPECT_GE(Arena::pooled_bytes(), 200u << 20);
}

TEST(Arena, ClearGivesAllMemoryBack) {
  Arena arena;
  for (int i = 0; i < 1000; ++i) arena.allocate(1000);
  arena.clear();
  EXPECT_EQ(arena.bytes(), 0u);
  EXPECT_EQ(arena.reserved_bytes(), 0u);
  EXPECT_EQ(arena.copy("again"), "again");
}

TEST(Arena, RefusesASizeThatWrapsAround) {
  Arena arena;
  EXPECT_THROW(arena.allocate(~std::size_t{0}), std::bad_alloc);
  EXPECT_THROW(arena.allocate(std::size_t{1} << 62), std::bad_alloc);
  EXPECT_EQ(arena.copy("still works"), "still works");
}

#if !defined(__SANITIZE_ADDRESS__)
TEST(Arena, PoisonShowsAViewThatOutlivedItsArena) {
  Arena::set_poison_released(true);
  std::string_view dangling;
  {
    Arena arena;
    arena.allocate(8 << 10);
    dangling = arena.copy("gone");
  }
  Arena::set_poison_released(false);
  EXPECT_EQ(dangling, "\xDD\xDD\xDD\xDD");
}
#else
TEST(ArenaDeathTest, AddressSanitizerSeesAViewThatOutlivedItsArena) {
  std::string_view dangling;
  {
    Arena arena;
    arena.allocate(8 << 10);
    dangling = arena.copy("gone");
  }
  EXPECT_DEATH(static_cast<void>(std::string(dangling)), "use-after-poison");
}
#endif

TEST(Arena, ThreadsShareThePool) {
  std::vector<std::future<void>> threads;
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    // tidy: allow banned: because the pool's lock is what is tested
    threads.push_back(std::async(std::launch::async, [seed] {
      Random random(seed);
      for (int i = 0; i < 200; ++i) {
        Arena arena;
        const std::string text(random.below(200 << 10), static_cast<char>('a' + seed));
        std::vector<std::string_view> kept;
        for (int k = 0; k < 5; ++k) kept.push_back(arena.copy(text));
        for (std::string_view view : kept) ASSERT_EQ(view, text);
      }
    }));
  }
  for (std::future<void>& thread : threads) thread.get();
}

}  // namespace
}  // namespace sluice
