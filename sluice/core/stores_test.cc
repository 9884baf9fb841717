#include "sluice/core/stores.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/core/shuffles.h"
#include "sluice/runtime/random.h"
#include "sluice/testkit/faulty_filesystem.h"
#include "sluice/testkit/simulation.h"

namespace sluice::detail {
namespace {

using testing::Simulation;

class NumberBucket : public Bucket {
 public:
  explicit NumberBucket(int n) : number(n) {}
  std::size_t bytes() const override { return sizeof number; }
  int number;
};

BucketPtr bucket(int number) { return std::make_shared<NumberBucket>(number); }
int number_in(const BucketPtr& bucket) { return static_cast<const NumberBucket&>(*bucket).number; }

template <class T>
class Kept : public Pipe {
 public:
  void push(const void* records, std::size_t count) override {
    const T* all = static_cast<const T*>(records);
    values.insert(values.end(), all, all + count);
    chunks.push_back(count);
  }
  void finish() override {}
  bool full() const override { return values.size() >= most; }
  std::vector<T> values;
  std::vector<std::size_t> chunks;
  std::size_t most = ~std::size_t{0};
};

template <class T>
RestedPtr rested(const std::vector<T>& values) {
  auto records = std::make_shared<RestedRecords>(type_ops<T>());
  records->append(values.data(), values.size());
  return records;
}

template <class T>
std::vector<T> values_of(const RestedRecords& records) {
  Kept<T> kept;
  records.push_all(kept);
  return kept.values;
}

// ---- ShuffleStore

TEST(ShuffleStore, GivesBucketsInTheOrderOfMapPartitions) {
  ShuffleStore store;
  store.open(1, 3);
  for (const std::size_t map : {std::size_t{2}, std::size_t{0}, std::size_t{1}}) {
    EXPECT_FALSE(store.complete(1));
    const int base = static_cast<int>(map) * 10;
    store.put(1, map, {bucket(base), bucket(base + 1)});
  }
  EXPECT_TRUE(store.complete(1));
  const std::vector<BucketPtr> second = store.get(1, 1);
  ASSERT_EQ(second.size(), 3U);
  EXPECT_EQ(number_in(second[0]), 1);
  EXPECT_EQ(number_in(second[1]), 11);
  EXPECT_EQ(number_in(second[2]), 21);
}

TEST(ShuffleStore, KeepsTheFirstAttempt) {
  ShuffleStore store;
  store.open(1, 2);
  store.put(1, 0, {bucket(1)});
  store.put(1, 0, {bucket(2)});
  EXPECT_FALSE(store.complete(1));
  store.put(1, 1, {bucket(3)});
  EXPECT_TRUE(store.complete(1));
  EXPECT_EQ(number_in(store.get(1, 0)[0]), 1);
}

TEST(ShuffleStore, OpenedAgainKeepsWhatItHas) {
  ShuffleStore store;
  store.open(1, 2);
  store.put(1, 0, {bucket(1)});
  store.open(1, 2);
  store.put(1, 1, {bucket(2)});
  EXPECT_TRUE(store.complete(1));
  store.open(1, 2);
  EXPECT_TRUE(store.complete(1));
}

TEST(ShuffleStore, WithoutMapPartitionsIsCompleteAtOnce) {
  ShuffleStore store;
  EXPECT_FALSE(store.complete(1));
  store.open(1, 0);
  EXPECT_TRUE(store.complete(1));
  EXPECT_TRUE(store.get(1, 0).empty());
}

TEST(ShuffleStore, IsEmptyAfterAllAreClosed) {
  ShuffleStore store;
  store.open(1, 1);
  store.open(2, 1);
  EXPECT_EQ(store.size(), 2U);
  store.close(1);
  store.close(1);
  EXPECT_EQ(store.size(), 1U);
  store.close(2);
  EXPECT_EQ(store.size(), 0U);
  EXPECT_FALSE(store.complete(2));
}

// ---- RestedRecords

TEST(RestedRecords, CopyWhatViewsPointTo) {
  std::vector<std::string> source;
  for (int i = 0; i < 20'000; ++i)
    source.push_back(std::string(static_cast<std::size_t>(i % 50), 'v') + std::to_string(i));
  const std::vector<std::string> expected = source;
  auto records = std::make_shared<RestedRecords>(type_ops<std::string_view>());
  for (const std::string& text : source) {
    const std::string_view view = text;
    records->append(&view, 1);
  }
  for (std::string& text : source) text.assign(text.size(), '#');
  const auto views = values_of<std::string_view>(*records);
  EXPECT_TRUE(std::equal(views.begin(), views.end(), expected.begin(), expected.end()));
  EXPECT_EQ(records->count(), 20'000U);
}

TEST(RestedRecords, HoldTypesWithDestructors) {
  using Record = std::pair<std::string, std::vector<std::int64_t>>;
  std::vector<Record> source;
  for (std::int64_t i = 0; i < 5000; ++i) {
    source.emplace_back(std::string(static_cast<std::size_t>(i % 40), 's'),
                        std::vector<std::int64_t>(static_cast<std::size_t>(i % 7), i));
  }
  const RestedPtr records = rested(source);
  EXPECT_EQ(values_of<Record>(*records), source);
}

TEST(RestedRecords, HoldRecordsLargerThanASegment) {
  using Record = std::array<std::int64_t, 50'000>;  // 400 KB
  auto record = std::make_unique<Record>();
  RestedRecords records(type_ops<Record>());
  for (std::int64_t i = 0; i < 3; ++i) {
    record->fill(i);
    records.append(record.get(), 1);
  }
  Kept<Record> kept;
  records.push_all(kept);
  ASSERT_EQ(kept.values.size(), 3U);
  for (std::int64_t i = 0; i < 3; ++i) EXPECT_EQ(kept.values[static_cast<std::size_t>(i)].back(), i);
}

TEST(RestedRecords, ComeInChunksThatFitTheCache) {
  const RestedPtr records = rested(std::vector<std::int64_t>(100'000, 1));
  Kept<std::int64_t> kept;
  records->push_all(kept);
  for (const std::size_t count : kept.chunks) EXPECT_LE(count * sizeof(std::int64_t), chunk_bytes);
  Kept<std::int64_t> some;
  some.most = 10;
  records->push_all(some);
  EXPECT_EQ(some.chunks.size(), 1U);
}

TEST(RestedRecords, ComeBackFromTheirCodec) {
  Random random(1);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::pair<std::string, std::int64_t>> source(random.below(20'000));
    for (auto& [text, number] : source) {
      text = std::string(random.below(20), static_cast<char>('a' + random.below(26)));
      number = static_cast<std::int64_t>(random.next());
    }
    Encoder out;
    rested(source)->encode_to(out);
    Decoder in(out.view());
    const RestedPtr back = RestedRecords::decode_from(in, type_ops<std::pair<std::string, std::int64_t>>());
    in.expect_end();
    EXPECT_EQ((values_of<std::pair<std::string, std::int64_t>>(*back)), source);
  }
}

TEST(RestedRecords, CutOrDamagedAreAnErrorAndNothingElse) {
  std::vector<std::pair<std::string, std::vector<int>>> source;
  for (int i = 0; i < 40; ++i)
    source.emplace_back(std::string(static_cast<std::size_t>(i), 'x'), std::vector<int>(3, i));
  Encoder out;
  rested(source)->encode_to(out);
  const std::string bytes = out.take();
  const auto& type = type_ops<std::pair<std::string, std::vector<int>>>();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    Decoder in({bytes.data(), size});
    EXPECT_THROW(RestedRecords::decode_from(in, type), Error) << size;
  }
  Random random(7);
  for (int i = 0; i < 5000; ++i) {
    std::string damaged = bytes;
    damaged[random.below(random.chance(0.3) ? 8 : damaged.size())] = static_cast<char>(random.below(256));
    Decoder in(damaged);
    try {
      RestedRecords::decode_from(in, type);
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == Code::corrupt_data || error.code() == Code::truncated_data);
    }
  }
}

// ---- BlockStore

const std::string spill = "/spill";

/// About `kilobytes` at rest, all different by `seed`.
std::vector<std::string> texts(std::uint64_t seed, std::size_t kilobytes = 16) {
  std::vector<std::string> made;
  for (std::size_t i = 0; i < kilobytes * 16; ++i)
    made.push_back(std::to_string(seed) + "-" + std::to_string(i) + std::string(40, '.'));
  return made;
}
RestedPtr block_of(std::uint64_t seed, std::size_t kilobytes = 16) {
  std::vector<std::string_view> views;
  const std::vector<std::string> made = texts(seed, kilobytes);
  views.assign(made.begin(), made.end());
  return rested(views);
}
std::size_t block_bytes() {
  static const std::size_t bytes = block_of(0)->bytes();
  return bytes;
}
bool holds(const RestedPtr& records, std::uint64_t seed, std::size_t kilobytes = 16) {
  if (records == nullptr) return false;
  const auto views = values_of<std::string_view>(*records);
  const std::vector<std::string> made = texts(seed, kilobytes);
  return std::equal(views.begin(), views.end(), made.begin(), made.end());
}

std::vector<std::string> files_below(Runtime& runtime, const std::string& path) {
  std::vector<std::string> paths;
  for (const FileInfo& info : runtime.files().list(path).value_or(std::vector<FileInfo>{})) {
    if (info.is_directory) {
      for (std::string& inner : files_below(runtime, info.path)) paths.push_back(std::move(inner));
    } else {
      paths.push_back(info.path);
    }
  }
  return paths;
}

/// Room for `blocks` blocks of 16 KB.
BlockStore::Options room_for(std::size_t blocks) {
  return {.memory_bytes = blocks * block_bytes() + block_bytes() / 2, .spill_directory = spill};
}

TEST(BlockStore, GivesBackWhatWasPut) {
  Simulation sim(1);
  sim.run([&] {
    BlockStore store(sim, room_for(4));
    EXPECT_EQ(store.get({1, 0}), nullptr);
    const RestedPtr records = block_of(1);
    store.put({1, 0}, records, Keep::memory);
    EXPECT_EQ(store.get({1, 0}), records);
    EXPECT_TRUE(store.has({1, 0}));
    EXPECT_FALSE(store.has({1, 1}));
    EXPECT_EQ(store.memory_bytes(), records->bytes());
  });
}

TEST(BlockStore, KeepsTheFirstOfTwo) {
  Simulation sim(1);
  sim.run([&] {
    BlockStore store(sim, room_for(2));
    store.put({1, 0}, block_of(1), Keep::memory);
    store.put({1, 1}, block_of(2), Keep::memory);
    store.put({1, 0}, block_of(3), Keep::memory);
    EXPECT_TRUE(holds(store.get({1, 0}), 1));
    EXPECT_TRUE(holds(store.get({1, 1}), 2));  // and nothing had to make room for it
    EXPECT_EQ(store.memory_bytes(), 2 * block_bytes());
  });
}

TEST(BlockStore, DropsTheLeastRecentlyUsedFirst) {
  Simulation sim(1);
  sim.run([&] {
    BlockStore store(sim, room_for(3));
    for (std::uint64_t i = 0; i < 3; ++i) store.put({1, i}, block_of(i), Keep::memory);
    store.get({1, 0});
    store.put({1, 3}, block_of(3), Keep::memory);
    EXPECT_FALSE(store.has({1, 1}));
    store.put({1, 4}, block_of(4), Keep::memory);
    EXPECT_FALSE(store.has({1, 2}));
    EXPECT_TRUE(holds(store.get({1, 0}), 0));
    EXPECT_EQ(store.counters().evicted, 2U);
    EXPECT_EQ(store.counters().spilled, 0U);
    EXPECT_EQ(store.memory_bytes(), 3 * block_bytes());
  });
}

TEST(BlockStore, InMemoryOnlyForgetsWhatItDrops) {
  Simulation sim(1);
  sim.run([&] {
    BlockStore store(sim, room_for(1));
    store.put({1, 0}, block_of(0), Keep::memory);
    store.put({1, 1}, block_of(1), Keep::memory);
    EXPECT_EQ(store.get({1, 0}), nullptr);
    EXPECT_TRUE(files_below(sim, spill).empty());
  });
}

TEST(BlockStore, SpillsToDiskAndReadsBackTheSame) {
  Simulation sim(1);
  sim.run([&] {
    BlockStore store(sim, room_for(2));
    for (std::uint64_t i = 0; i < 10; ++i) store.put({1, i}, block_of(i), Keep::memory_and_disk);
    EXPECT_EQ(store.counters().spilled, 8U);
    EXPECT_EQ(files_below(sim, spill).size(), 8U);
    EXPECT_EQ(store.memory_bytes(), 2 * block_bytes());
    for (int round = 0; round < 2; ++round) {
      for (std::uint64_t i = 0; i < 10; ++i) EXPECT_TRUE(holds(store.get({1, i}), i)) << i;
    }
  });
}

TEST(BlockStore, WithDiskOnlyKeepsNothingInMemory) {
  Simulation sim(1);
  sim.run([&] {
    BlockStore store(sim, room_for(2));
    store.put({1, 0}, block_of(0), Keep::memory);
    for (std::uint64_t i = 1; i < 5; ++i) store.put({1, i}, block_of(i), Keep::disk);
    EXPECT_EQ(store.memory_bytes(), block_bytes());
    EXPECT_EQ(files_below(sim, spill).size(), 4U);
    for (std::uint64_t i = 0; i < 5; ++i) EXPECT_TRUE(holds(store.get({1, i}), i)) << i;
    store.remove_owner(1);
    EXPECT_TRUE(files_below(sim, spill).empty());
  });
}

TEST(BlockStore, WritesWhatIsLargerThanItsBudgetAtOnceAndPushesNothingOut) {
  Simulation sim(1);
  sim.run([&] {
    BlockStore store(sim, room_for(2));
    store.put({1, 0}, block_of(0), Keep::memory);
    store.put({1, 1}, block_of(1, 200), Keep::memory_and_disk);
    EXPECT_TRUE(store.has({1, 0}));
    EXPECT_TRUE(holds(store.get({1, 1}), 1, 200));
    EXPECT_EQ(store.memory_bytes(), block_bytes());
  });
}

TEST(BlockStore, WithoutADirectoryWritesNothing) {
  Simulation sim(1);
  sim.run([&] {
    BlockStore store(sim, {.memory_bytes = block_bytes() + 1, .spill_directory = ""});
    store.put({1, 0}, block_of(0), Keep::disk);
    EXPECT_TRUE(holds(store.get({1, 0}), 0));
    store.put({1, 1}, block_of(1), Keep::memory_and_disk);
    EXPECT_EQ(store.get({1, 0}), nullptr);
  });
}

TEST(BlockStore, CountsDamagedFilesAndForgetsTheirBlocks) {
  Simulation sim(1);
  sim.run([&] {
    BlockStore store(sim, room_for(1));
    const auto damage = [&](const std::string& path, std::uint64_t how) {
      const std::string bytes = read_file(sim.files(), path);
      std::string other = bytes;
      if (how == 0) other[bytes.size() / 2] ^= 1;
      if (how == 1) other.resize(bytes.size() / 2);
      if (how == 2) other.resize(3);
      if (how == 3) other[0] ^= 1;
      sim.files().remove(path);
      if (how != 4) sim.files().create(path)->append(other);
    };
    for (std::uint64_t how = 0; how < 5; ++how) {
      store.put({how, 0}, block_of(how), Keep::disk);
      for (const std::string& path : files_below(sim, spill)) damage(path, how);
      EXPECT_EQ(store.get({how, 0}), nullptr);
      EXPECT_FALSE(store.has({how, 0}));
      EXPECT_EQ(store.counters().damaged, how + 1);
      store.put({how, 0}, block_of(how), Keep::disk);
      EXPECT_TRUE(holds(store.get({how, 0}), how));
      store.remove_owner(how);
    }
  });
}

TEST(BlockStore, RemovesAnOwnersBlocksAndFilesAndNoOthers) {
  Simulation sim(1);
  sim.run([&] {
    BlockStore store(sim, room_for(2));
    for (std::uint64_t i = 0; i < 6; ++i) store.put({1 + i % 2, i}, block_of(i), Keep::memory_and_disk);
    EXPECT_EQ(files_below(sim, spill).size(), 4U);
    store.remove_owner(1);
    EXPECT_EQ(files_below(sim, spill).size(), 2U);
    for (std::uint64_t i = 0; i < 6; ++i) EXPECT_EQ(store.has({1 + i % 2, i}), i % 2 == 1);
    EXPECT_EQ(store.memory_bytes(), block_bytes());
    store.remove_owner(2);
    EXPECT_EQ(store.memory_bytes(), 0U);
    EXPECT_TRUE(files_below(sim, spill).empty());
  });
}

TEST(BlockStore, RemovesTheBlocksOfAllOwnersButThoseThatAreWanted) {
  Simulation sim(1);
  sim.run([&] {
    BlockStore store(sim, room_for(2));
    for (std::uint64_t i = 0; i < 6; ++i) store.put({i, 0}, block_of(i), Keep::memory_and_disk);
    EXPECT_EQ(store.keep_owners(2, {1, 3, 5, 9}), (std::vector<std::uint64_t>{3, 5}));
    for (std::uint64_t i = 0; i < 6; ++i) EXPECT_EQ(store.has({i, 0}), i < 2 || i == 3 || i == 5) << i;
    EXPECT_EQ(files_below(sim, spill).size(), 3U);
    store.remove_spilled();
    for (std::uint64_t i = 0; i < 6; ++i) EXPECT_EQ(store.has({i, 0}), i == 5) << i;
    EXPECT_TRUE(holds(store.get({5, 0}), 5));
    EXPECT_TRUE(files_below(sim, spill).empty());
  });
}

TEST(BlockStore, LeavesOtherFilesOfItsDirectoryAlone) {
  Simulation sim(1);
  sim.run([&] {
    sim.files().make_directories(spill);
    sim.files().create(spill + "/mine");
    {
      BlockStore one(sim, room_for(1));
      BlockStore other(sim, room_for(1));
      one.put({1, 0}, block_of(1), Keep::disk);
      other.put({1, 0}, block_of(2), Keep::disk);
      EXPECT_TRUE(holds(one.get({1, 0}), 1));
      EXPECT_TRUE(holds(other.get({1, 0}), 2));
    }
    EXPECT_EQ(files_below(sim, spill), std::vector<std::string>{spill + "/mine"});
  });
}

TEST(BlockStore, KeepsInMemoryWhatAFullDiskRefuses) {
  Simulation sim(1, {.write_failure = 1.0});
  sim.run([&] {
    BlockStore store(sim, room_for(1));
    for (std::uint64_t i = 0; i < 3; ++i) store.put({1, i}, block_of(i), Keep::memory_and_disk);
    store.put({1, 3}, block_of(3), Keep::disk);
    for (std::uint64_t i = 0; i < 4; ++i) EXPECT_TRUE(holds(store.get({1, i}), i)) << i;
    EXPECT_EQ(store.memory_bytes(), 4 * block_bytes());
    EXPECT_EQ(store.counters().spill_failures, 3U);
    EXPECT_EQ(store.counters().evicted, 0U);
    EXPECT_TRUE(files_below(sim, spill).empty());
    store.remove_owner(1);
    EXPECT_EQ(store.memory_bytes(), 0U);
  });
}

// Several threads put, get and remove, while writes fail now and then. What is not Keep::memory is never lost while its
// owner lives, nothing is ever wrong, and memory is back at 0 in the end.
TEST(BlockStore, IsSafeFromSeveralThreads) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Simulation sim(seed, {.write_failure = seed % 3 == 0 ? 0.1 : 0.0});
    sim.run([&] {
      BlockStore store(sim, {.memory_bytes = 40'000, .spill_directory = spill});
      std::vector<std::unique_ptr<Thread>> threads;
      for (std::uint64_t t = 0; t < 4; ++t) {
        threads.push_back(sim.spawn("t" + std::to_string(t), [&, t] {
          Random random(seed * 4 + t);
          std::uint64_t owner = t;  // t, t + 4, t + 8...
          for (int step = 0; step < 12; ++step) {
            const std::uint64_t index = random.below(3);
            const BlockId own{owner, index};
            const bool on_disk = index != 0;
            store.put(own, block_of(owner * 10 + index, 4),
                      on_disk ? (index == 1 ? Keep::memory_and_disk : Keep::disk) : Keep::memory);
            sim.pause();
            const BlockId other{random.below(20), random.below(3)};
            const RestedPtr got = store.get(other);
            EXPECT_TRUE(got == nullptr || holds(got, other.owner * 10 + other.index, 4));
            EXPECT_TRUE(!on_disk || holds(store.get(own), owner * 10 + index, 4)) << "seed " << seed;
            if (random.chance(0.7)) continue;
            store.remove_owner(owner);
            owner += 4;
          }
          store.remove_owner(owner);
        }));
      }
      for (const auto& thread : threads) thread->join();
      EXPECT_EQ(store.memory_bytes(), 0U) << "seed " << seed;
      EXPECT_TRUE(files_below(sim, spill).empty()) << "seed " << seed;
    });
  }
}

// ---- ShuffleStore with a budget

constexpr std::size_t shuffle_targets = 3;

Shipped<ShuffleKernel> move_kernel() {
  const OperatorInfo info{"move", std::source_location::current()};
  return ship<ShuffleKernel, MoveKernel<std::string>>(info, std::uint64_t{0});
}

/// The last target has none, the others some 16 KB each.
std::vector<BucketPtr> buckets_of(std::uint64_t seed) {
  std::vector<BucketPtr> buckets;
  for (std::uint64_t target = 0; target + 1 < shuffle_targets; ++target) {
    std::vector<std::string> texts(200);
    for (std::string& text : texts) text = std::to_string(seed) + " to " + std::to_string(target);
    Encoder out;
    rested(texts)->encode_to(out);
    Decoder in(out.view());
    buckets.push_back(move_kernel()->decode_bucket(in));
  }
  buckets.push_back(nullptr);
  return buckets;
}

std::size_t bytes_of(const std::vector<BucketPtr>& buckets) {
  std::size_t bytes = 0;
  for (const BucketPtr& bucket : buckets) bytes += bucket == nullptr ? 0 : bucket->bytes();
  return bytes;
}

std::string encoded_bucket(const BucketPtr& bucket) {
  if (bucket == nullptr) return "none";
  Encoder out;
  move_kernel()->encode_bucket(*bucket, out);
  return out.take();
}

/// All of the map partition is what `buckets_of(seed)` was, by both ways to ask.
bool has_buckets(ShuffleStore& store, std::uint64_t shuffle, std::size_t map, std::uint64_t seed) {
  const std::vector<BucketPtr> expected = buckets_of(seed);
  for (std::size_t target = 0; target < shuffle_targets; ++target) {
    const auto bucket = store.find(shuffle, map, target);
    const auto packed = store.find_packed(shuffle, map, target);
    if (!bucket.has_value() || !packed.has_value()) return false;
    if (encoded_bucket(*bucket) != encoded_bucket(expected[target])) return false;
    const BucketPtr unpacked = packed->empty() ? nullptr : unpack_bucket(*move_kernel(), *packed);
    if (encoded_bucket(unpacked) != encoded_bucket(expected[target])) return false;
  }
  return true;
}

/// Room for so many map partitions.
ShuffleStore::Options shuffle_room_for(std::size_t maps) {
  const std::size_t one = bytes_of(buckets_of(0));
  return {.memory_bytes = maps * one + one / 2, .spill_directory = spill};
}

TEST(ShuffleStoreWithABudget, KeepsItAndGivesTheSameBuckets) {
  for (const Compression compression : {Compression::none, Compression::lz4}) {
    Simulation sim(1);
    sim.run([&] {
      ShuffleStore::Options options = shuffle_room_for(2);
      options.compression = compression;
      ShuffleStore store(sim, options);
      for (std::uint64_t shuffle = 1; shuffle <= 2; ++shuffle) {
        store.open(shuffle, 5, move_kernel());
        for (std::uint64_t map = 0; map < 5; ++map) {
          EXPECT_TRUE(store.put(shuffle, map, buckets_of(shuffle * 10 + map)));
          EXPECT_LE(store.memory_bytes(), options.memory_bytes);
        }
        EXPECT_TRUE(store.complete(shuffle));
      }
      EXPECT_EQ(store.counters().spilled, 8U);
      EXPECT_EQ(files_below(sim, spill).size(), 8U);
      // The newest are in memory: the very buckets that were put.
      EXPECT_EQ(store.find(2, 4, 0), store.find(2, 4, 0));
      EXPECT_NE(store.find(1, 0, 0), store.find(1, 0, 0));
      for (int round = 0; round < 2; ++round) {
        for (std::uint64_t map = 0; map < 5; ++map) {
          EXPECT_TRUE(has_buckets(store, 1, map, 10 + map));
          EXPECT_TRUE(has_buckets(store, 2, map, 20 + map));
        }
      }
      EXPECT_EQ(store.memory_bytes(), 2 * bytes_of(buckets_of(0)));
      EXPECT_FALSE(store.put(1, 0, buckets_of(99)));
      store.close(1);
      EXPECT_EQ(files_below(sim, spill).size(), 3U);
      store.close(2);
      EXPECT_TRUE(files_below(sim, spill).empty());
      EXPECT_EQ(store.memory_bytes(), 0U);
    });
    EXPECT_TRUE(files_below(sim, spill).empty());
  }
}

TEST(ShuffleStoreWithABudget, SpillsWhatIsLargerThanAllOfItAndPushesNothingElseOut) {
  Simulation sim(1);
  sim.run([&] {
    ShuffleStore::Options options = shuffle_room_for(1);
    ShuffleStore store(sim, options);
    store.open(1, 2, move_kernel());
    store.put(1, 0, buckets_of(1));
    std::vector<BucketPtr> large;
    for (std::uint64_t i = 0; i < 4; ++i) large.push_back(buckets_of(2 + i)[0]);
    ASSERT_GT(bytes_of(large), options.memory_bytes);
    store.put(1, 1, large);
    EXPECT_EQ(store.counters().spilled, 1U);
    EXPECT_EQ(store.memory_bytes(), bytes_of(buckets_of(1)));
    for (std::size_t target = 0; target < large.size(); ++target) {
      EXPECT_EQ(encoded_bucket(store.find(1, 1, target).value()), encoded_bucket(large[target]));
    }
  });
}

TEST(ShuffleStoreWithABudget, HasLostWhatIsDamagedOnDiskAndTakesItAgain) {
  Simulation sim(1);
  sim.run([&] {
    ShuffleStore store(sim, {.memory_bytes = 0, .spill_directory = spill});
    store.open(1, 2, move_kernel());
    store.put(1, 0, buckets_of(1));
    store.put(1, 1, buckets_of(2));
    for (std::uint64_t how = 0; how < 4; ++how) {
      const std::vector<std::string> paths = files_below(sim, spill);
      ASSERT_EQ(paths.size(), 2U);
      const std::size_t damaged = how % 2;  // whose file is the older one, by its number
      const std::string& path = paths[0];
      std::string bytes = read_file(sim.files(), path);
      if (how == 0) bytes[10] ^= 1;
      if (how == 1) bytes.resize(20);
      if (how == 2) bytes.clear();
      sim.files().remove(path);
      if (how != 3) sim.files().create(path)->append(bytes);
      const bool by_bytes = how % 2 == 0;
      EXPECT_FALSE(by_bytes ? store.find_packed(1, damaged, 0).has_value() : store.find(1, damaged, 0).has_value());
      EXPECT_FALSE(store.complete(1));
      EXPECT_FALSE(store.find(1, damaged, 1).has_value());
      EXPECT_EQ(store.counters().damaged, how + 1);
      EXPECT_TRUE(has_buckets(store, 1, 1 - damaged, 2 - damaged));
      EXPECT_TRUE(store.put(1, damaged, buckets_of(1 + damaged)));
      EXPECT_TRUE(store.complete(1));
      EXPECT_TRUE(has_buckets(store, 1, damaged, 1 + damaged));
    }
  });
}

TEST(ShuffleStoreWithABudget, KeepsInMemoryWhatAFullDiskRefuses) {
  for (const testing::FileFault fault : {testing::FileFault::disk_full, testing::FileFault::short_write}) {
    Simulation sim(1);
    sim.run([&] {
      testing::FaultyFileSystem files(sim.files());
      testing::FaultyRuntime runtime(sim, files);
      files.fail({.operation = testing::FileOperation::append, .times = 1'000, .fault = fault});
      ShuffleStore store(runtime, shuffle_room_for(1));
      store.open(1, 4, move_kernel());
      for (std::uint64_t map = 0; map < 4; ++map) store.put(1, map, buckets_of(map));
      for (std::uint64_t map = 0; map < 4; ++map) EXPECT_TRUE(has_buckets(store, 1, map, map));
      EXPECT_EQ(store.memory_bytes(), 4 * bytes_of(buckets_of(0)));
      EXPECT_EQ(store.counters().spill_failures, 3U);
      EXPECT_EQ(store.counters().spilled, 0U);
      EXPECT_TRUE(files_below(sim, spill).empty());
      // There is room again.
      files.mend();
      store.open(2, 1, move_kernel());
      store.put(2, 0, buckets_of(9));
      EXPECT_LE(store.memory_bytes(), shuffle_room_for(1).memory_bytes);
      for (std::uint64_t map = 0; map < 4; ++map) EXPECT_TRUE(has_buckets(store, 1, map, map));
    });
  }
}

TEST(ShuffleStoreWithABudget, MakesItsDirectoryAgainWhenSomebodyHasRemovedIt) {
  Simulation sim(1);
  sim.run([&] {
    ShuffleStore store(sim, {.memory_bytes = 0, .spill_directory = spill});
    store.open(1, 3, move_kernel());
    store.put(1, 0, buckets_of(0));
    sim.files().remove_all(spill);
    EXPECT_FALSE(store.find(1, 0, 0).has_value());
    store.put(1, 1, buckets_of(1));
    store.put(1, 2, buckets_of(2));
    EXPECT_TRUE(has_buckets(store, 1, 1, 1));
    EXPECT_TRUE(has_buckets(store, 1, 2, 2));
    EXPECT_EQ(store.memory_bytes(), 0U);
  });
}

TEST(ShuffleStoreWithABudget, WithoutADirectoryKeepsAll) {
  Simulation sim(1);
  sim.run([&] {
    ShuffleStore store(sim, {.memory_bytes = 0, .spill_directory = ""});
    store.open(1, 1, move_kernel());
    store.put(1, 0, buckets_of(0));
    EXPECT_TRUE(has_buckets(store, 1, 0, 0));
    EXPECT_EQ(store.counters().spill_failures, 0U);
  });
}

// Several threads write and close shuffles of their own and read those of others, while writes fail now and then.
TEST(ShuffleStoreWithABudget, IsSafeFromSeveralThreads) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Simulation sim(seed, {.write_failure = seed % 3 == 0 ? 0.1 : 0.0});
    sim.run([&] {
      ShuffleStore store(sim, shuffle_room_for(2));
      std::vector<std::unique_ptr<Thread>> threads;
      for (std::uint64_t t = 0; t < 4; ++t) {
        threads.push_back(sim.spawn("t" + std::to_string(t), [&, t] {
          Random random(seed * 4 + t);
          for (std::uint64_t shuffle = t + 1; shuffle < 16; shuffle += 4) {
            store.open(shuffle, 3, move_kernel());
            for (std::uint64_t map = 0; map < 3; ++map) {
              store.put(shuffle, map, buckets_of(shuffle * 10 + map));
              sim.pause();
              const std::uint64_t other = 1 + random.below(16);
              const std::size_t other_map = random.below(3);
              const auto found = store.find(other, other_map, 1);
              EXPECT_TRUE(!found.has_value() ||
                          encoded_bucket(*found) == encoded_bucket(buckets_of(other * 10 + other_map)[1]));
            }
            for (std::uint64_t map = 0; map < 3; ++map) {
              EXPECT_TRUE(has_buckets(store, shuffle, map, shuffle * 10 + map)) << "seed " << seed;
            }
            store.close(shuffle);
          }
        }));
      }
      for (const auto& thread : threads) thread->join();
      EXPECT_EQ(store.memory_bytes(), 0U) << "seed " << seed;
      EXPECT_EQ(store.counters().damaged, 0U) << "seed " << seed;
      EXPECT_TRUE(files_below(sim, spill).empty()) << "seed " << seed;
    });
  }
}

// ---- StateStore

class Counter : public StatePartition {
 public:
  void track() override { tracked = true; }
  void freeze() override {}
  bool write(std::size_t, std::vector<StateBlock>&) override { return false; }
  void load(const StateBlock&, const StateSchema&) override {}
  void loaded(std::int64_t) override {}
  std::int64_t last_batch() const override { return 0; }
  void mark_all() override {}
  void apply(std::span<const StateBlock>, std::int64_t) override {}
  bool tracked = false;
};

TEST(StateStore, MakesAPartitionOnceAndForgetsWholeOperations) {
  StateStore store;
  int made = 0;
  const auto make = [&] {
    ++made;
    return std::make_shared<Counter>();
  };
  const auto first = store.get(1, 0, make);
  EXPECT_EQ(store.get(1, 0, make), first);
  EXPECT_NE(store.get(1, 1, make), first);
  const auto other = store.get(2, 0, make);
  EXPECT_EQ(made, 3);
  store.remove(1);
  EXPECT_NE(store.get(1, 0, make), first);
  EXPECT_EQ(store.get(2, 0, make), other);
}

}  // namespace
}  // namespace sluice::detail
