#include "sluice/cluster/state_keeper.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "sluice/core/stores.h"
#include "sluice/runtime/runtime.h"
#include "tests/graphs.h"

namespace sluice::detail {
namespace {

/// Knows which batches it has had, and tells what came in since the last time it was asked. As keyed state does, it
/// takes marks with it that are made while something frozen is not written.
class History : public StatePartition {
 public:
  void track() override {}
  void freeze() override { frozen_ = std::exchange(new_, {}); }
  bool write(std::size_t, std::vector<StateBlock>& out) override {
    for (StateBlock& block : std::exchange(frozen_, {})) out.push_back(std::move(block));
    return false;
  }
  void load(const StateBlock& block, const StateSchema&) override { batches.push_back(block.batch); }
  void loaded(std::int64_t version) override { version_ = version; }
  std::int64_t last_batch() const override { return version_; }
  void mark_all() override {
    std::vector<StateBlock>& marked = frozen_.empty() ? new_ : frozen_;
    marked.clear();
    for (const std::int64_t batch : batches) marked.push_back({StateBlock::What::log, 0, batch, {}});
  }
  void apply(std::span<const StateBlock> blocks, std::int64_t version) override {
    for (const StateBlock& block : blocks) add(block.batch);
    version_ = version;
  }
  /// A batch of this operator.
  void run(std::int64_t batch) {
    add(batch);
    version_ = batch;
  }
  std::vector<std::int64_t> batches;

 private:
  void add(std::int64_t batch) {
    if (std::find(batches.begin(), batches.end(), batch) != batches.end()) return;
    batches.push_back(batch);
    new_.push_back({StateBlock::What::log, 0, batch, {}});
  }
  std::vector<StateBlock> new_;
  std::vector<StateBlock> frozen_;
  std::int64_t version_ = 0;
};

class HistoryMaker : public StateMaker {
 public:
  std::uint64_t operation() const override { return 7; }
  std::shared_ptr<StatePartition> make(std::size_t, std::uint64_t) const override {
    return std::make_shared<History>();
  }
};

/// With room for blocks.
class Keeper : public StateKeeper {
 public:
  Keeper() : StateKeeper(std::make_unique<BlockStore>(system_runtime(), BlockStore::Options{})) {}
};

class StateKeeperTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t operation = 7;
  using What = StateRequest::What;

  static Shipped<StateMaker> maker() { return ship<StateMaker, HistoryMaker>(OperatorInfo{}); }
  static TaskProgram task(std::int64_t batch) {
    TaskProgram program;
    TaskStep step;
    step.what = RunZip{{}, maker()};
    step.batch = batch;
    program.steps.push_back(std::move(step));
    return program;
  }
  static History& state(StateKeeper& keeper) {
    return static_cast<History&>(*keeper.store().get(operation, 0, [] { return std::make_shared<History>(); }));
  }
  /// A batch on `owner`, whose changes go to `copy`.
  static void run(StateKeeper& owner, StateKeeper& copy, std::int64_t batch, bool is_first = false) {
    const std::vector<std::uint64_t> known = is_first ? std::vector<std::uint64_t>{} : std::vector{operation};
    ASSERT_TRUE(owner.prepare(task(batch), known));
    state(owner).run(batch);
    for (StateChanges& changes : owner.changes_of(task(batch), known))
      copy.take(std::move(changes), [] { return true; });
  }
  static StateReply ask(StateKeeper& keeper, What what, std::int64_t number, bool of_copy = false,
                        std::int64_t frozen = 0, bool all = false) {
    StateRequest request;
    request.request = 99;
    request.what = what;
    request.operation = operation;
    request.number = request.batch = number;
    request.of_copy = of_copy;
    request.frozen = frozen;
    request.all = all;
    return keeper.handle(request);
  }
  /// A third one begins a copy of all that `from` has after the batch.
  static void copy_all(StateKeeper& from, StateKeeper& to, std::int64_t batch) {
    StateRequest request;
    request.operation = operation;
    request.batch = batch;
    request.maker = encoded(maker());
    to.take(from.whole(request), [] { return true; });
  }
  static std::vector<std::int64_t> batches_of(const StateReply& reply) {
    std::vector<std::int64_t> batches;
    for (const StateBlock& block : reply.blocks) batches.push_back(block.batch);
    return batches;
  }
  using Batches = std::vector<std::int64_t>;
};

TEST_F(StateKeeperTest, WhatTakesOverHasTheBatchesThatAreComplete) {
  for (const bool is_complete : {false, true}) {
    Keeper owner;
    Keeper copy;
    run(owner, copy, 10, true);
    run(owner, copy, 20);
    EXPECT_EQ(ask(copy, What::promote, is_complete ? 20 : 10).error, "");
    EXPECT_EQ(state(copy).batches, (is_complete ? Batches{10, 20} : Batches{10}));
  }
}

TEST_F(StateKeeperTest, ABatchThatIsRunAgainIsRunOnWhatWasBefore) {
  Keeper owner;
  Keeper copy;
  run(owner, copy, 10, true);
  run(owner, copy, 20);
  ask(copy, What::promote, 10);
  EXPECT_TRUE(copy.prepare(task(20), {operation}));
  EXPECT_EQ(state(copy).batches, Batches{10});
  state(copy).run(20);
  EXPECT_TRUE(copy.prepare(task(30), {operation}));
  EXPECT_EQ(state(copy).batches, (Batches{10, 20}));
}

TEST_F(StateKeeperTest, ABatchThatIsNotRunAgainIsTakenInBeforeTheNext) {
  Keeper owner;
  Keeper copy;
  run(owner, copy, 10, true);
  run(owner, copy, 20);
  ask(copy, What::promote, 10);
  EXPECT_TRUE(copy.prepare(task(30), {operation}));
  EXPECT_EQ(state(copy).batches, (Batches{10, 20}));
}

TEST_F(StateKeeperTest, StateThatMustBeThereIsNotMadeAnew) {
  Keeper keeper;
  EXPECT_FALSE(keeper.prepare(task(10), {operation}));
  EXPECT_TRUE(keeper.prepare(task(10), {}));
  EXPECT_NE(ask(keeper, What::freeze, 10).error, "");
  StateChanges changes;
  changes.operation = operation;
  EXPECT_THROW(keeper.take(std::move(changes), [] { return true; }), Error);
}

TEST_F(StateKeeperTest, WhatALostExecutorHasSentIsNotTakenIn) {
  Keeper owner;
  Keeper copy;
  run(owner, copy, 1, true);
  for (StateChanges& changes : owner.changes_of(task(2), {operation})) {
    EXPECT_THROW(copy.take(std::move(changes), [] { return false; }), Error);
  }
}

TEST_F(StateKeeperTest, TheCopyTellsCheckpointsWhatIsNewSinceTheLast) {
  Keeper owner;
  Keeper copy;
  run(owner, copy, 10, true);
  const std::int64_t first = ask(copy, What::freeze, 10, true).number;
  EXPECT_EQ(batches_of(ask(copy, What::write, 1 << 20, true, first)), Batches{10});
  run(owner, copy, 20);
  run(owner, copy, 30);
  const std::int64_t second = ask(copy, What::freeze, 30, true).number;
  EXPECT_EQ(batches_of(ask(copy, What::write, 1 << 20, true, second)), (Batches{20, 30}));
}

TEST_F(StateKeeperTest, WhatWasFrozenIsGoneWhenTheCopyTakesOver) {
  Keeper owner;
  Keeper copy;
  run(owner, copy, 10, true);
  const std::int64_t frozen = ask(copy, What::freeze, 10, true).number;
  ask(copy, What::promote, 10);
  EXPECT_NE(ask(copy, What::write, 1 << 20, true, frozen).error, "");
  EXPECT_NE(ask(copy, What::write, 1 << 20, false, frozen).error, "");
}

// An abandoned checkpoint has frozen it and not written it all.
TEST_F(StateKeeperTest, AWholeCheckpointHasAllThoughOneBeforeWasAbandoned) {
  Keeper owner;
  Keeper copy;
  run(owner, copy, 10, true);
  ask(copy, What::freeze, 10, true);
  run(owner, copy, 20);
  const std::int64_t frozen = ask(copy, What::freeze, 20, true, 0, true).number;
  EXPECT_EQ(batches_of(ask(copy, What::write, 1 << 20, true, frozen)), (Batches{10, 20}));
}

TEST_F(StateKeeperTest, AThirdOneGetsAllOfItAndRolesChange) {
  Keeper owner;
  Keeper copy;
  Keeper third;
  run(owner, copy, 10, true);
  run(owner, copy, 20);
  copy_all(owner, third, 20);
  EXPECT_EQ(ask(third, What::promote, 20).error, "");
  EXPECT_EQ(ask(owner, What::demote, 20).error, "");
  EXPECT_EQ(ask(owner, What::demote, 20).error, "") << "it has done so already";
  EXPECT_EQ(state(third).batches, (Batches{10, 20}));
  run(third, owner, 30);
  ask(owner, What::promote, 30);
  EXPECT_EQ(state(owner).batches, (Batches{10, 20, 30}));
}

// ---- When the driver is lost (K3)

TEST_F(StateKeeperTest, WhatIsKeptForTheNextDriverIsAsOfTheBatchThatItAsksFor) {
  Keeper owner;
  Keeper copy;
  owner.begin("app", 1);
  copy.begin("app", 1);
  run(owner, copy, 10, true);
  run(owner, copy, 20);
  run(owner, copy, 30);  // which the driver has not seen complete, perhaps
  ASSERT_TRUE(owner.keep_aside());
  ASSERT_TRUE(copy.keep_aside());
  EXPECT_EQ(owner.store().find(operation, 0), nullptr) << "no task sees it";
  owner.begin("app", 2);
  copy.begin("app", 2);
  const std::vector<KeptState> kept = ask(copy, What::resume, 2).kept;
  ASSERT_EQ(kept.size(), 1u);
  EXPECT_EQ(kept[0].batch, 20);
  EXPECT_EQ(kept[0].waiting_batch, 30);
  EXPECT_NE(ask(owner, What::take_up, 20).error, "") << "it cannot go back";
  EXPECT_EQ(ask(copy, What::take_up, 20).error, "");
  EXPECT_EQ(state(copy).batches, (Batches{10, 20}));
  Keeper next;
  copy_all(copy, next, 20);
  run(copy, next, 30);
  ask(next, What::promote, 30);
  EXPECT_EQ(state(next).batches, (Batches{10, 20, 30}));
}

TEST_F(StateKeeperTest, ACopyIsTakenUpAsOfTheLaterBatchAndStaysACopy) {
  Keeper owner;
  Keeper copy;
  copy.begin("app", 1);
  run(owner, copy, 10, true);
  run(owner, copy, 20);
  copy.keep_aside();
  copy.begin("app", 2);
  EXPECT_EQ(ask(copy, What::take_up, 20, true).error, "");
  run(owner, copy, 30);
  ask(copy, What::promote, 30);
  EXPECT_EQ(state(copy).batches, (Batches{10, 20, 30}));
}

TEST_F(StateKeeperTest, NothingIsKeptForAnotherApplicationNorForAnOlderDriver) {
  Keeper owner;
  Keeper copy;
  run(owner, copy, 10, true);
  EXPECT_FALSE(owner.keep_aside()) << "no application has begun";
  copy.begin("app", 4);
  ASSERT_TRUE(copy.keep_aside());
  try {
    copy.begin("app", 3);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::network_failed);
  }
  ASSERT_TRUE(copy.keep_aside()) << "still there: that driver is not listened to";
  copy.begin("another", 1);
  EXPECT_TRUE(ask(copy, What::resume, 1).kept.empty());
  EXPECT_NE(ask(copy, What::take_up, 10).error, "");
}

// ---- Blocks (K4)

class StateKeeperWithBlocks : public ::testing::Test {
 protected:
  using Owners = std::vector<std::uint64_t>;
  static BlockId block(std::uint32_t number) { return service_block(1, number); }

  /// A driver of that epoch begins; the one before was of epoch `last`. Which of the blocks are there for it?
  Owners begin(std::uint64_t epoch, std::uint64_t last, const std::vector<std::uint32_t>& wanted) {
    keeper_.begin("app", epoch);
    StateRequest request;
    request.what = StateRequest::What::resume;
    request.batch = static_cast<std::int64_t>(last);
    for (const std::uint32_t number : wanted) request.block_owners.push_back(block(number).owner);
    return keeper_.handle(request).block_owners;
  }
  void put(const BlockId& id) {
    auto records = std::make_shared<RestedRecords>(type_ops<Number>());
    const auto number = static_cast<Number>(id.owner);
    records->append(&number, 1);
    keeper_.blocks().put(id, records, Keep::memory_and_disk);
  }

  Keeper keeper_;
};

TEST_F(StateKeeperWithBlocks, ThoseThatTheNextDriverWantsStay) {
  begin(1, 0, {});
  for (const std::uint32_t number : {1, 2, 3}) put(block(number));
  put({5, 0});  // a cached partition
  ASSERT_TRUE(keeper_.keep_aside());
  EXPECT_FALSE(keeper_.blocks().has({5, 0}));
  EXPECT_EQ(begin(2, 1, {1, 3, 4}), (Owners{block(1).owner, block(3).owner}));
  EXPECT_FALSE(keeper_.blocks().has(block(2)));
  EXPECT_EQ(values_of(keeper_.blocks().get(block(3))), (std::vector<Number>{static_cast<Number>(block(3).owner)}));
  put(block(7));
  ASSERT_TRUE(keeper_.keep_aside());
  EXPECT_EQ(begin(3, 2, {1, 7}), (Owners{block(1).owner, block(7).owner}));
}

TEST_F(StateKeeperWithBlocks, TheyStayWhenADriverIsLostBeforeItHasDoneAnything) {
  begin(1, 0, {});
  put(block(1));
  keeper_.keep_aside();
  EXPECT_EQ(begin(2, 1, {1}).size(), 1u);
  keeper_.keep_aside();
  EXPECT_EQ(begin(3, 1, {1}).size(), 1u);
}

TEST_F(StateKeeperWithBlocks, NoneStaysAfterADriverThatTheExecutorHasMissed) {
  begin(1, 0, {});
  put(block(1));
  keeper_.keep_aside();
  EXPECT_TRUE(begin(3, 2, {1}).empty());
  EXPECT_FALSE(keeper_.blocks().has(block(1)));
}

TEST_F(StateKeeperWithBlocks, NoneStaysForAnotherApplicationOrForADriverThatGoesOnWithoutThem) {
  begin(1, 0, {});
  put(block(1));
  keeper_.keep_aside();
  keeper_.begin("another", 1);
  EXPECT_FALSE(keeper_.blocks().has(block(1)));
  put(block(2));
  keeper_.keep_aside();
  keeper_.begin("another", 2);
  keeper_.drop_aside();
  EXPECT_FALSE(keeper_.blocks().has(block(2)));
  put(block(3));
  ASSERT_TRUE(keeper_.keep_aside()) << "of the driver that it came to late";
  EXPECT_TRUE(keeper_.blocks().has(block(3)));
}

}  // namespace
}  // namespace sluice::detail
