#include "sluice/stream/keyed_state.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "sluice/runtime/random.h"
#include "sluice/stream/update_state.h"
#include "sluice/stream/window_state.h"

namespace sluice::detail {
namespace {

using Content = std::vector<std::pair<std::string, std::string>>;

template <class K, class S>
struct Keys {
  static K key(std::uint64_t n) {
    if constexpr (std::is_same_v<K, std::string>) {
      return std::string(n % 20, 'k') + std::to_string(n);
    } else {
      return static_cast<K>(n * 7919);
    }
  }
  static S state(std::uint64_t n) {
    if constexpr (std::is_same_v<S, std::string>) {
      return std::string(n % 9, 's') + std::to_string(n);
    } else {
      return static_cast<S>(n);
    }
  }
  /// Keys of which most lie in two groups.
  static const std::vector<K>& some() {
    static const std::vector<K> instance = [] {
      std::vector<K> keys;
      for (std::uint64_t n = 0; keys.size() < 150; ++n) {
        typename KeyTraits<K>::Scratch scratch;
        const K made = key(n);
        const std::uint32_t group = key_group(KeyTraits<K>::hash(KeyTraits<K>::probe(made, scratch), 0));
        if (n < 20 || group == 1 || group == key_groups - 1) keys.push_back(made);
      }
      return keys;
    }();
    return instance;
  }
};

/// A state that is changed as attempts change it.
template <class K, class S>
class Changing {
 public:
  using State = UpdateState<K, S>;
  using Traits = KeyTraits<K>;

  explicit Changing(std::size_t partition, std::size_t partitions) : state(partition, partitions) { state.track(); }

  /// A batch that puts, changes and removes keys; `gives_up`: an attempt that is undone.
  void batch(Random& random, bool gives_up) {
    const std::uint64_t attempt = state.begin_attempt();
    std::vector<std::uint32_t> entered;
    std::vector<EntryAt> removed;
    std::vector<std::pair<EntryAt, typename State::Entry>> before;
    for (std::uint64_t n = random.below(random.chance(0.5) ? 5 : 100); n > 0; --n) {
      const K key = Keys<K, S>::some()[random.below(Keys<K, S>::some().size())];
      typename Traits::Scratch scratch;
      const auto& kept = Traits::probe(key, scratch);
      const std::uint64_t hash = Traits::hash(kept, 0);
      if (!state.has_group(hash)) continue;
      const std::uint32_t g = state.group_of(hash);
      auto& group = state.enter(g, attempt, [&](std::uint32_t each) { entered.push_back(each); });
      const std::uint32_t index = state.find_or_insert(group, hash, kept);
      auto& entry = group.table[index].value;
      if (index < group.size_before) before.emplace_back(EntryAt{g, index}, entry);
      if (entry.last == 0) continue;  // each key once a batch
      entry.last = 0;
      if (entry.live && random.chance(0.4)) {
        entry.live = false;
        removed.push_back({g, index});
      } else {
        entry.live = true;
        entry.state = Keys<K, S>::state(random.below(1000));
        state.mark(group, index);
      }
    }
    for (const std::uint32_t g : entered) {
      for (auto& entry : state.group(g).table) entry.value.last = UpdateContent<S>::none;
    }
    if (!gives_up) {
      for (const EntryAt at : removed) state.remove(at);
      return;
    }
    for (auto it = before.rbegin(); it != before.rend(); ++it) {
      auto& entry = state.entry(it->first);
      entry.live = it->second.live;
      entry.state = it->second.state;
    }
    for (const std::uint32_t g : entered) state.remove_new(state.group(g));
  }

  std::vector<std::pair<K, S>> content() const { return content_of(state); }
  static std::vector<std::pair<K, S>> content_of(const State& state) {
    std::vector<std::pair<K, S>> all;
    state.for_each_used(0, state.groups(), [&](std::uint32_t g) {
      for (const auto& entry : state.group(g).table) {
        if (entry.value.live) all.emplace_back(Traits::leave(entry.key), entry.value.state);
      }
    });
    return all;
  }

  State state;
};

template <class K, class S>
void write_and_load(std::uint64_t seed) {
  Random random(seed);
  const std::size_t partitions = 1 + random.below(4);
  const std::size_t partition = random.below(partitions);
  Changing<K, S> changing(partition, partitions);
  const StateSchema schema = UpdateState<K, S>::schema("update_state_by_key", Duration(1));
  std::vector<StateBlock> chain;
  for (int checkpoint = 0; checkpoint < 6; ++checkpoint) {
    for (std::uint64_t n = random.below(random.chance(0.5) ? 3 : 10); n > 0; --n) {
      changing.batch(random, random.chance(0.2));
    }
    const auto frozen = changing.content();
    if (random.chance(0.3)) {
      changing.state.mark_all();
      chain.clear();
    }
    changing.state.freeze();
    // Batches go on while it is written, a piece at a time.
    bool more = true;
    while (more) {
      if (random.chance(0.5)) changing.batch(random, random.chance(0.2));
      more = changing.state.write(random.below(200), chain);
    }
    // All at once, and into a state of as many partitions or of others.
    UpdateState<K, S> again(partition, partitions);
    for (const StateBlock& block : chain) again.load(block, schema);
    ASSERT_EQ((Changing<K, S>::content_of(again)), frozen) << "seed " << seed << ", checkpoint " << checkpoint;
    ASSERT_EQ(again.size(), frozen.size());
    const std::size_t others = 1 + random.below(5);
    std::vector<std::pair<K, S>> together;
    for (std::size_t p = 0; p < others; ++p) {
      UpdateState<K, S> part(p, others);
      for (const StateBlock& block : chain) part.load(block, schema);
      const auto content = Changing<K, S>::content_of(part);
      together.insert(together.end(), content.begin(), content.end());
    }
    ASSERT_EQ(together, frozen) << "seed " << seed << ", checkpoint " << checkpoint << ", " << others << " partitions";
  }
}

TEST(KeyedState, GivesTheContentOfTheFreezeInItsOrderWhateverHappensWhileItIsWritten) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    ASSERT_NO_FATAL_FAILURE((write_and_load<std::string, std::string>(seed)));
    ASSERT_NO_FATAL_FAILURE((write_and_load<std::int64_t, std::int64_t>(seed)));
    ASSERT_NO_FATAL_FAILURE((write_and_load<std::int64_t, std::string>(seed)));
  }
}

TEST(KeyedState, WritesWhatHasChangedAndNothingElse) {
  Changing<std::int64_t, std::int64_t> changing(0, 1);
  Random random(1);
  for (int i = 0; i < 50; ++i) changing.batch(random, false);
  std::vector<StateBlock> blocks;
  changing.state.freeze();
  while (changing.state.write(1 << 20, blocks)) {
  }
  EXPECT_FALSE(blocks.empty());
  blocks.clear();
  changing.state.freeze();
  EXPECT_FALSE(changing.state.write(1 << 20, blocks));
  EXPECT_TRUE(blocks.empty());
}

template <class K, class S>
void damage_blocks() {
  Changing<K, S> changing(0, 1);
  Random random(2);
  for (int i = 0; i < 20; ++i) changing.batch(random, false);
  std::vector<StateBlock> blocks;
  changing.state.freeze();
  while (changing.state.write(1 << 20, blocks)) {
  }
  const StateSchema schema = UpdateState<K, S>::schema("update_state_by_key", Duration(1));
  for (StateBlock block : blocks) {
    for (std::size_t size = 0; size < block.bytes.size(); ++size) {
      StateBlock cut = block;
      cut.bytes.resize(size);
      UpdateState<K, S> state(0, 1);
      EXPECT_THROW(state.load(cut, schema), Error) << size;
    }
    StateBlock longer = block;
    longer.bytes.push_back('x');
    UpdateState<K, S> first(0, 1);
    EXPECT_THROW(first.load(longer, schema), Error);
    block.group = (block.group + 1) % key_groups;
    UpdateState<K, S> second(0, 1);
    EXPECT_THROW(second.load(block, schema), Error) << "keys in a group that is not theirs";
  }
}

TEST(KeyedState, RefusesDamagedBlocks) {
  damage_blocks<std::string, std::string>();
  damage_blocks<std::int64_t, std::int64_t>();
}

struct OldState {
  std::int64_t hits;
  std::string name;
};
struct NewState {
  std::int64_t hits = 0;
  std::string name;
  double rate = 0.5;
};

TEST(KeyedState, ReadsAStateWhoseStructHasGotAField) {
  UpdateState<std::int64_t, OldState> before(0, 1);
  before.track();
  const std::uint64_t hash = KeyTraits<std::int64_t>::hash(42, 0);
  auto& group = before.enter(before.group_of(hash), before.begin_attempt(), [](std::uint32_t) {});
  const std::uint32_t index = before.find_or_insert(group, hash, 42);
  group.table[index].value = UpdateContent<OldState>::entry({7, "seven"});
  before.mark(group, index);
  std::vector<StateBlock> blocks;
  before.freeze();
  while (before.write(1 << 20, blocks)) {
  }
  const StateSchema written = UpdateState<std::int64_t, OldState>::schema("update_state_by_key", Duration(1));
  EXPECT_TRUE(ValueReader<NewState>::fits(written.value));
  EXPECT_FALSE(ValueReader<OldState>::fits(schema_of<NewState>()));
  UpdateState<std::int64_t, NewState> after(0, 1);
  for (const StateBlock& block : blocks) after.load(block, written);
  const auto& loaded = after.group(after.group_of(hash)).table[0].value;
  EXPECT_TRUE(loaded.live);
  EXPECT_EQ(loaded.state.hits, 7);
  EXPECT_EQ(loaded.state.name, "seven");
  EXPECT_EQ(loaded.state.rate, 0.5);
}

}  // namespace
}  // namespace sluice::detail
