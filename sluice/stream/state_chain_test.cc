#include "sluice/stream/state_chain.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sluice/core/codec.h"
#include "sluice/core/hash.h"
#include "sluice/runtime/random.h"
#include "sluice/stream/update_state.h"
#include "sluice/testkit/simulation.h"
#include "sluice/testkit/thrown.h"

namespace sluice::detail {
namespace {

using namespace std::chrono_literals;
using testing::code_of;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::Simulation;

const std::string directory = "/ckpt";

/// Types of which a state has keys and values.
template <class K, class S>
struct Types {
  static std::string bytes_of_key(const K& key) {
    Encoder out;
    if constexpr (std::is_same_v<K, std::string>) {
      out.bytes(key);
    } else {
      encode(key, out);
    }
    return out.take();
  }
  static std::string bytes_of_value(const S& value) {
    Encoder out;
    encode(value, out);
    return out.take();
  }
  static K key(std::uint64_t n) {
    if constexpr (std::is_same_v<K, std::string>) return std::string(n % 20, 'k') + std::to_string(n);
    if constexpr (std::is_same_v<K, std::int64_t>) return static_cast<std::int64_t>(n * 7919);
  }
  static S value(std::uint64_t n) {
    if constexpr (std::is_same_v<S, std::string>) return std::string(n % 9, 's') + std::to_string(n);
    if constexpr (std::is_same_v<S, std::int64_t>) return static_cast<std::int64_t>(n);
  }
  static std::uint32_t group(const K& key) {
    typename KeyTraits<K>::Scratch scratch;
    return key_group(KeyTraits<K>::hash(KeyTraits<K>::probe(key, scratch), 0));
  }
  static StateSchema schema() { return UpdateState<K, S>::schema("update_state_by_key", 1s); }
};

/// What a group has: keys and values, in their order.
using Content = std::vector<std::pair<std::string, std::string>>;
using Groups = std::map<std::uint32_t, Content>;

class StateChainTest : public ::testing::Test {
 protected:
  StateChainTest() { files_.make_directories(directory); }

  static StateSchema schema_of_window(Duration length, Duration slide) {
    StateSchema schema{"window", "text", "pair<i64,u32>"};
    schema.log_length = length.count();
    schema.slide = slide.count();
    return schema;
  }
  static StateSchema schema_of_kept(Duration length) {
    StateSchema schema{std::string(kept_kind), "", "text"};
    schema.log_length = length.count();
    schema.slide = Duration(1s).count();
    return schema;
  }
  static StateBlock log(Duration batch, std::string bytes) {
    return {StateBlock::What::log, 0, batch.count(), std::move(bytes)};
  }

  /// Appends a file to the chain of `manifest`.
  void write(Manifest& manifest, const std::vector<CheckpointOperator>& operators,
             const std::vector<std::pair<std::uint32_t, StateBlock>>& blocks) {
    const std::string name = "state-" + std::to_string(++names_);
    StateFileWriter out(files_, directory, name, manifest.chain.empty(), operators);
    for (const auto& [index, block] : blocks) out.add(index, block);
    manifest.chain.push_back(out.finish());
  }
  Manifest merged(const Manifest& manifest) {
    Manifest other = manifest;
    other.chain = {merge_chain(files_, directory, manifest, "state-" + std::to_string(++names_))};
    EXPECT_TRUE(other.chain[0].base);
    return other;
  }

  Groups groups_of(const Manifest& manifest, std::size_t index) {
    Groups groups;
    StateChain chain(files_, directory, manifest);
    for (const auto& [number, blocks] : chain.groups(index)) {
      const KeyGroup group = chain.read_group(index, blocks);
      Content content;
      group.for_each([&](std::string_view key, std::string_view value) { content.emplace_back(key, value); });
      EXPECT_EQ(group.size(), content.size());
      if (!content.empty()) groups[number] = std::move(content);
    }
    return groups;
  }
  std::vector<std::string> logs_of(const Manifest& manifest, std::size_t index) {
    std::vector<std::string> logs;
    StateChain chain(files_, directory, manifest);
    for (const StateChain::Block& block : chain.logs(index)) {
      logs.push_back(std::to_string(block.batch / Duration(1s).count()) + ":" + std::string(chain.read(block)));
    }
    return logs;
  }
  std::uint64_t blocks_of(const Manifest& manifest) {
    std::uint64_t blocks = 0;
    for (const StateFileInfo& file : manifest.chain) {
      read_state_file(files_, directory, file, [&](const CheckpointOperator&, StateBlock&&) { ++blocks; });
    }
    return blocks;
  }

  template <class K, class S>
  void merge_random_chain(std::uint64_t seed);
  template <class K, class S>
  Content loaded(const Manifest& manifest);

  Simulation sim_{3};
  FileSystem& files_ = sim_.files();
  int names_ = 0;
};

/// One delta's changes of a group, and what they make of what was there.
struct Changes {
  std::vector<std::string> gone;
  Content puts;

  void apply(Content& content) const {
    for (const std::string& key : gone) {
      std::erase_if(content, [&](const auto& each) { return each.first == key; });
    }
    for (const auto& [key, value] : puts) {
      const auto known =
          std::find_if(content.begin(), content.end(), [&, &key = key](const auto& each) { return each.first == key; });
      if (known == content.end()) {
        content.emplace_back(key, value);
      } else {
        known->second = value;
      }
    }
  }
  std::string bytes(const StateSchema& schema) const {
    Encoder out;
    out.varint(gone.size());
    for (const std::string& key : gone) schema.key_bytes > 0 ? out.bytes(key) : out.text(key);
    out.varint(puts.size());
    for (const auto& [key, value] : puts) {
      schema.key_bytes > 0 ? out.bytes(key) : out.text(key);
      schema.value_bytes > 0 ? out.bytes(value) : out.text(value);
    }
    return out.take();
  }
};

// What a program has when it has loaded a chain, in the order of the table.
template <class K, class S>
Content StateChainTest::loaded(const Manifest& manifest) {
  UpdateState<K, S> state(0, 1);
  for (const StateFileInfo& file : manifest.chain) {
    read_state_file(files_, directory, file,
                    [&](const CheckpointOperator& from, StateBlock&& block) { state.load(block, from.schema); });
  }
  Content content;
  state.for_each_used(0, state.groups(), [&](std::uint32_t g) {
    for (const auto& entry : state.group(g).table) {
      if (!entry.value.live) continue;
      content.emplace_back(Types<K, S>::bytes_of_key(KeyTraits<K>::leave(entry.key)),
                           Types<K, S>::bytes_of_value(entry.value.state));
    }
  });
  return content;
}

template <class K, class S>
void StateChainTest::merge_random_chain(std::uint64_t seed) {
  Random random(seed);
  using Type = Types<K, S>;
  const std::vector<CheckpointOperator> operators = {{"counts", Type::schema(), 4}};
  Manifest manifest;
  manifest.operators = operators;
  Groups model;
  for (std::uint64_t files = 1 + random.below(6); files > 0; --files) {
    std::map<std::uint32_t, Changes> changes;
    for (std::uint64_t n = random.below(40); n > 0; --n) {
      const K key = Type::key(random.below(40));
      Changes& group = changes[Type::group(key)];
      // A key that never was there, or that goes and comes back in one delta, too.
      const std::string bytes = Type::bytes_of_key(key);
      if (random.chance(0.3)) group.gone.push_back(bytes);
      if (random.chance(0.7)) group.puts.emplace_back(bytes, Type::bytes_of_value(Type::value(random.below(1'000))));
    }
    std::vector<std::pair<std::uint32_t, StateBlock>> blocks;
    for (const auto& [number, each] : changes) {
      blocks.push_back({0, {StateBlock::What::entries, number, 0, each.bytes(operators[0].schema)}});
      each.apply(model[number]);
    }
    write(manifest, operators, blocks);
  }
  Content all;
  std::erase_if(model, [](const auto& group) { return group.second.empty(); });
  for (const auto& [number, content] : model) all.insert(all.end(), content.begin(), content.end());

  ASSERT_EQ(groups_of(manifest, 0), model);
  ASSERT_EQ((loaded<K, S>(manifest)), all);
  const Manifest once = merged(manifest);
  ASSERT_EQ(groups_of(once, 0), model);
  ASSERT_EQ((loaded<K, S>(once)), all);
  ASSERT_EQ(blocks_of(once), model.size());
  // Of a file that is merged already the same comes out.
  const Manifest twice = merged(once);
  ASSERT_EQ(read_file(files_, directory + "/" + once.chain[0].name),
            read_file(files_, directory + "/" + twice.chain[0].name));
}

TEST_F(StateChainTest, AMergedChainIsWhatTheChainIs) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    ASSERT_NO_FATAL_FAILURE((merge_random_chain<std::string, std::string>(seed)));
    ASSERT_NO_FATAL_FAILURE((merge_random_chain<std::string, std::int64_t>(seed)));
    ASSERT_NO_FATAL_FAILURE((merge_random_chain<std::int64_t, std::string>(seed)));
    ASSERT_NO_FATAL_FAILURE((merge_random_chain<std::int64_t, std::int64_t>(seed)));
  }
}

TEST_F(StateChainTest, LogsStayInOrderUntilTheyHaveLeftTheirWindow) {
  const std::vector<CheckpointOperator> operators = {{"hits", schema_of_window(3s, 1s), 2},
                                                     {"lines", schema_of_kept(2s), 0}};
  Manifest manifest;
  manifest.operators = operators;
  for (int second = 1; second <= 8; ++second) {
    const auto hits = [&](const char* part) { return log(second * 1s, part); };
    write(manifest, operators,
          {{0, hits("a")}, {1, log(second * 1s, "x")}, {0, hits("b")}, {1, log(second * 1s, "y")}});
  }
  manifest.time = Time(8s);
  // A slide may be due at 8 s, or have been at 7 s at the earliest.
  const std::vector<std::string> hits = {"5:a", "5:b", "6:a", "6:b", "7:a", "7:b", "8:a", "8:b"};
  const std::vector<std::string> lines = {"6:x", "6:y", "7:x", "7:y", "8:x", "8:y"};
  for (const Manifest& each : {manifest, merged(manifest)}) {
    EXPECT_EQ(logs_of(each, 0), hits);
    EXPECT_EQ(logs_of(each, 1), lines);
  }
  EXPECT_EQ(blocks_of(merged(manifest)), hits.size() + lines.size());
}

TEST_F(StateChainTest, TimesAndLengthsMayBeAnyNumbers) {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min();
  for (const std::int64_t time : {least, std::int64_t{0}, most}) {
    for (const std::int64_t length : {std::int64_t{1}, most}) {
      for (const std::int64_t batch : {least, std::int64_t{0}, most}) {
        Manifest manifest;
        manifest.time = Time(Duration(time));
        manifest.operators = {{"hits", schema_of_window(Duration(length), Duration(least)), 2}};
        write(manifest, manifest.operators, {{0, log(Duration(batch), "a")}});
        EXPECT_LE(logs_of(merged(manifest), 0).size(), 1u);
      }
    }
  }
}

// A window over a stream with state: its past records are kept under its name.
TEST_F(StateChainTest, AStreamMayHaveStateAndBeKept) {
  Manifest manifest;
  manifest.time = Time(2s);
  manifest.operators = {{"totals", Types<std::string, std::string>::schema(), 2}, {"totals", schema_of_kept(5s), 0}};
  Changes changes;
  changes.puts = {{"key", "value"}};
  const StateBlock entries{StateBlock::What::entries, 7, 0, changes.bytes(manifest.operators[0].schema)};
  write(manifest, manifest.operators, {{0, entries}, {1, log(1s, "one")}});
  write(manifest, manifest.operators, {{1, log(2s, "two")}});
  for (const Manifest& each : {manifest, merged(manifest)}) {
    EXPECT_EQ(groups_of(each, 0), (Groups{{7, changes.puts}}));
    EXPECT_THAT(logs_of(each, 0), IsEmpty());
    EXPECT_THAT(groups_of(each, 1), IsEmpty());
    EXPECT_THAT(logs_of(each, 1), ElementsAre("1:one", "2:two"));
  }
}

TEST_F(StateChainTest, AProgramMayHoldItsWindowsLongerOrNotAtAllThanTheOneBefore) {
  Manifest manifest;
  manifest.time = Time(4s);
  manifest.operators = {{"lines", schema_of_kept(1s), 0}, {"words", schema_of_kept(1s), 0}};
  write(manifest, manifest.operators, {{0, log(2s, "two")}, {1, log(2s, "zwei")}});
  manifest.operators = {{"lines", schema_of_kept(9s), 0}, {"chars", schema_of_kept(1s), 0}};
  write(manifest, manifest.operators, {{0, log(3s, "three")}, {1, log(4s, "f")}});
  for (const Manifest& each : {manifest, merged(manifest)}) {
    EXPECT_THAT(logs_of(each, 0), ElementsAre("2:two", "3:three"));
    EXPECT_THAT(logs_of(each, 1), ElementsAre("4:f"));
  }
}

TEST_F(StateChainTest, WhatHasLeftItsWindowMayBeOfAnotherType) {
  Manifest manifest;
  manifest.operators = {{"lines", schema_of_kept(1s), 0}};
  write(manifest, manifest.operators, {{0, log(2s, "two")}});
  manifest.operators[0].schema.value = "i64";
  manifest.time = Time(3s);
  EXPECT_EQ(code_of([&] { merged(manifest); }), Code::corrupt_data);
  manifest.time = Time(30s);
  EXPECT_THAT(logs_of(merged(manifest), 0), IsEmpty());
}

TEST_F(StateChainTest, StateOfOtherOperatorsOrTypesIsDamage) {
  using Strings = Types<std::string, std::string>;
  Changes changes;
  changes.puts = {{"key", "value"}};
  const StateBlock entries{StateBlock::What::entries, 7, 0, changes.bytes(Strings::schema())};
  const auto code_with = [&](const std::function<void(CheckpointOperator&)>& change) {
    Manifest manifest;
    manifest.operators = {{"counts", Strings::schema(), 4}};
    write(manifest, manifest.operators, {{0, entries}});
    change(manifest.operators[0]);
    return code_of([&] { merged(manifest); });
  };
  EXPECT_EQ(code_with([](CheckpointOperator& it) { it.name = "other"; }), Code::corrupt_data);
  EXPECT_EQ(code_with([](CheckpointOperator& it) { it.schema.kind = "window"; }), Code::corrupt_data);
  EXPECT_EQ(code_with([](CheckpointOperator& it) { it.schema.key = "i64"; }), Code::corrupt_data);
  EXPECT_EQ(code_with([](CheckpointOperator& it) { it.schema.value = "i64"; }), Code::corrupt_data);
  EXPECT_EQ(code_with([](CheckpointOperator& it) { it.schema.key_bytes = 8; }), Code::corrupt_data);
  EXPECT_EQ(code_with([](CheckpointOperator& it) { it.schema.value_bytes = 8; }), Code::corrupt_data);
}

TEST_F(StateChainTest, AFailedMergeLeavesNothing) {
  Manifest manifest;
  manifest.operators = {{"counts", Types<std::string, std::string>::schema(), 4}};
  write(manifest, manifest.operators, {{0, {StateBlock::What::entries, 7, 0, "\1"}}});
  const auto before = files_.list(directory)->size();
  EXPECT_EQ(code_of([&] { merge_chain(files_, directory, manifest, "state-merged"); }), Code::truncated_data);
  EXPECT_EQ(files_.list(directory)->size(), before);
  files_.remove(directory + "/" + manifest.chain[0].name);
  EXPECT_EQ(code_of([&] { merge_chain(files_, directory, manifest, "state-merged"); }), Code::not_readable);
}

TEST(KeyGroup, RefusesWhatIsNoBlock) {
  const StateSchema schema = Types<std::string, std::int64_t>::schema();
  Changes changes;
  changes.gone = {"gone"};
  changes.puts = {{"key", "12345678"}, {"other", "12345678"}};
  const std::string whole = changes.bytes(schema);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    KeyGroup group(schema);
    EXPECT_THROW(group.take(std::string_view(whole).substr(0, size)), Error) << size;
  }
  KeyGroup group(schema);
  EXPECT_THROW(group.take(whole + 'x'), Error);
  KeyGroup endless(schema);
  Encoder many;
  many.varint(0);
  many.varint(~std::uint64_t{0});
  EXPECT_THROW(endless.take(many.view()), Error);
}

}  // namespace
}  // namespace sluice::detail
