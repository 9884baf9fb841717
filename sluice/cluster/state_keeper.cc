#include "sluice/cluster/state_keeper.h"

#include <algorithm>
#include <utility>

#include "sluice/runtime/errors.h"

namespace sluice::detail {
namespace {

Error missing(const char* what) { return Error(Code::state_lost, {.why = what}); }

/// Calls f(maker, partition, batch) for each state that the task works on.
template <class F>
void for_each_state(const TaskProgram& task, const F& f) {
  for (const TaskStep& step : task.steps) {
    if (const Shipped<StateMaker>* const maker = state_of(step)) f(*maker, step.partition, step.batch);
  }
}

}  // namespace

std::shared_ptr<StatePartition> StateKeeper::make(const std::string& maker, std::uint32_t partition) const {
  Decoder in(maker);
  auto made = Shipped<StateMaker>::decode_from(in)->make(partition, hash_seed_);
  made->track();
  return made;
}

void StateKeeper::settle(Kept& kept, StatePartition& state, std::int64_t batch) {
  if (kept.waiting_batch == 0 || kept.waiting_batch > batch) return;
  state.apply(kept.waiting, kept.waiting_batch);
  kept.waiting.clear();
  kept.waiting_batch = 0;
}

// What a checkpoint has not written of it is not written any more.
void StateKeeper::drop_frozen(Kept& kept, StatePartition& state) {
  kept.frozen = 0;
  std::vector<StateBlock> dropped;
  while (state.write(~std::size_t{0}, dropped)) {
  }
}

// ---- For tasks

bool StateKeeper::prepare(const TaskProgram& task, const std::vector<std::uint64_t>& must_exist) {
  const std::lock_guard lock(mutex_);
  bool is_there = true;
  for_each_state(task, [&](const Shipped<StateMaker>& maker, std::uint32_t partition, std::int64_t batch) {
    const Key key{maker->operation(), partition};
    const auto state = states_.find(key.first, key.second);
    if (state == nullptr) {
      is_there = is_there && !contains(must_exist, key.first);
      kept_.erase(key);  // of an attempt that came to nothing with its executor
      return;
    }
    const auto kept = kept_.find(key);
    if (kept == kept_.end() || kept->second.copy != nullptr) return;
    // The same batch is run again (K1).
    if (kept->second.waiting_batch == batch) {
      kept->second.waiting.clear();
      kept->second.waiting_batch = 0;
    }
    settle(kept->second, *state, batch);
  });
  return is_there;
}

std::vector<StateChanges> StateKeeper::changes_of(const TaskProgram& task,
                                                  const std::vector<std::uint64_t>& must_exist) {
  std::vector<StateChanges> all;
  for_each_state(task, [&](const Shipped<StateMaker>& maker, std::uint32_t partition, std::int64_t) {
    const auto state = states_.find(maker->operation(), partition);
    StateChanges changes;
    changes.operation = maker->operation();
    changes.partition = partition;
    changes.batch = state->last_batch();
    if (!contains(must_exist, changes.operation)) {
      changes.maker = encoded(maker);
      state->mark_all();
    }
    state->freeze();
    while (state->write(~std::size_t{0}, changes.blocks)) {
    }
    all.push_back(std::move(changes));
  });
  return all;
}

// ---- For other executors

void StateKeeper::take(StateChanges&& changes, const std::function<bool()>& is_peer) {
  const Key key{changes.operation, changes.partition};
  const std::lock_guard lock(mutex_);
  if (!is_peer()) throw missing("its executor is lost");
  if (!changes.maker.empty()) {
    kept_[key] = Kept{make(changes.maker, changes.partition), 0, {}, 0};
  }
  const auto found = kept_.find(key);
  if (found == kept_.end() || found->second.copy == nullptr) throw missing("no copy of this state is kept here");
  Kept& kept = found->second;
  // The same batch again: it was asked for again, and nothing has changed since.
  if (kept.waiting_batch == changes.batch || kept.copy->last_batch() == changes.batch) return;
  settle(kept, *kept.copy, changes.batch);
  kept.waiting_batch = changes.batch;
  kept.waiting = std::move(changes.blocks);
  if (changes.complete) settle(kept, *kept.copy, changes.batch);
}

// ---- For the driver

StateReply StateKeeper::handle(const StateRequest& request) {
  StateReply reply;
  reply.request = request.request;
  try {
    const std::lock_guard lock(mutex_);
    answer(request, reply);
  } catch (const Error& error) {
    reply.error = error.what();
  }
  return reply;
}

void StateKeeper::answer(const StateRequest& request, StateReply& reply) {
  using What = StateRequest::What;
  const Key key{request.operation, request.partition};
  if (request.what == What::resume) {
    reply.number = static_cast<std::int64_t>(aside_epoch_);
    for (const auto& [at, kept] : aside_) {
      reply.kept.push_back({at.first, at.second, kept.copy->last_batch(), kept.waiting_batch});
    }
    const auto last = static_cast<std::uint64_t>(request.batch);
    const bool has_missed_none = blocks_since_ <= last && last <= lost_epoch_;
    reply.block_owners = keep_blocks(has_missed_none ? request.block_owners : std::vector<std::uint64_t>());
    // The driver that begins may be lost before it has done anything: then the next one asks for those of `last`, too.
    blocks_since_ = last;
    return;
  }
  if (request.what == What::forget_kept) return aside_.clear();
  if (request.what == What::take_up) return take_up(key, request);
  if (request.what == What::make) {
    auto made = make(request.maker, request.partition);
    Kept& kept = kept_[key] = {};
    if (request.of_copy) {
      kept.copy = std::move(made);
    } else {
      states_.put(key.first, key.second, std::move(made));
    }
    return;
  }
  if (request.what == What::drop_copy) {
    const auto unneeded = kept_.find(key);
    if (unneeded != kept_.end() && unneeded->second.copy != nullptr) kept_.erase(unneeded);
    return;
  }
  Kept& kept = kept_[key];
  const auto state = find(key, kept);
  const bool is_copy = kept.copy != nullptr;
  if (state == nullptr) {
    kept_.erase(key);
    throw missing("this state is not here");
  }
  const bool changes_role = request.what == What::promote || request.what == What::demote;
  if (changes_role && is_copy == (request.what == What::demote)) return;  // it has done so already
  if (!changes_role && is_copy != request.of_copy) {
    throw missing(is_copy ? "only a copy of this state is here" : "no copy of this state is kept here");
  }
  switch (request.what) {
    case What::load:
      for (const StateBlock& block : request.blocks) state->load(block, request.written);
      break;
    case What::loaded: state->loaded(request.number); break;
    case What::freeze:
      settle(kept, *state, request.number);
      drop_frozen(kept, *state);  // before: it would take the marks with it
      if (request.all) state->mark_all();
      state->freeze();
      reply.number = kept.frozen = static_cast<std::int64_t>(request.request);
      reply.batch = state->last_batch();
      break;
    case What::write:
      if (kept.frozen == 0 || kept.frozen != request.frozen) throw missing("what was frozen has been dropped");
      reply.more = state->write(static_cast<std::size_t>(request.number), reply.blocks);
      break;
    case What::promote:
      settle(kept, *state, request.number);
      drop_frozen(kept, *state);
      // What it has to tell of from now on is what its own batches change.
      state->freeze();
      drop_frozen(kept, *state);
      states_.put(key.first, key.second, std::move(kept.copy));
      kept.copy = nullptr;
      break;
    case What::demote:
      settle(kept, *state, request.number);
      drop_frozen(kept, *state);
      states_.remove(key.first, key.second);
      kept.copy = state;
      break;
    default: throw Error(Code::corrupt_data, {.why = "an unknown request about state"});
  }
}

void StateKeeper::take_up(const Key& key, const StateRequest& request) {
  const auto found = aside_.find(key);
  if (found == aside_.end()) throw missing("this state has not been kept");
  Kept kept = std::move(found->second);
  aside_.erase(found);
  const auto state = std::exchange(kept.copy, nullptr);
  if (kept.waiting_batch <= request.number) settle(kept, *state, request.number);
  if (state->last_batch() != request.number) throw missing("this state has been kept as of another batch");
  drop_frozen(kept, *state);
  // What it has to tell of from now on is what comes now.
  state->freeze();
  drop_frozen(kept, *state);
  Kept& now = kept_[key] = {};
  if (request.of_copy) {
    now.copy = state;
  } else {
    states_.put(key.first, key.second, state);
  }
}

void StateKeeper::begin(const std::string& application, std::uint64_t epoch) {
  const std::lock_guard lock(mutex_);
  if (application == application_ && epoch < epoch_) {
    throw Error(Code::network_failed, {.why = "the driver is of epoch " + std::to_string(epoch) +
                                              ", and that of epoch " + std::to_string(epoch_) + " has taken over"});
  }
  if (application != application_) {
    aside_.clear();
    keep_blocks({});
  }
  application_ = application;
  epoch_ = epoch;
}

bool StateKeeper::keep_aside() {
  const std::lock_guard lock(mutex_);
  blocks_->remove_owners(0, first_service_block - 1);  // cached partitions
  // Of an application that nobody can go on with nothing is kept.
  if (application_.empty()) {
    kept_.clear();
    states_.clear();
    keep_blocks({});
    return false;
  }
  for (auto& [key, state] : states_.take_all()) {
    kept_[{key.first, static_cast<std::uint32_t>(key.second)}].copy = std::move(state);
  }
  std::erase_if(kept_, [](const auto& each) { return each.second.copy == nullptr; });
  // Nothing: the driver was lost before it could go on with what was kept.
  if (!kept_.empty()) {
    aside_ = std::exchange(kept_, {});
    aside_epoch_ = epoch_;
  }
  lost_epoch_ = epoch_;
  return !aside_.empty() || blocks_->memory_bytes() > 0;
}

void StateKeeper::drop_aside() {
  const std::lock_guard lock(mutex_);
  aside_.clear();
  keep_blocks({});
  blocks_since_ = epoch_;
}

std::vector<std::uint64_t> StateKeeper::keep_blocks(const std::vector<std::uint64_t>& owners) {
  return blocks_->keep_owners(first_service_block, owners);
}

StateChanges StateKeeper::whole(const StateRequest& request) {
  const Key key{request.operation, request.partition};
  const std::lock_guard lock(mutex_);
  const auto state = states_.find(key.first, key.second);
  if (state == nullptr) throw missing("this state is not here");
  Kept& kept = kept_[key];
  settle(kept, *state, request.batch);
  drop_frozen(kept, *state);
  StateChanges changes;
  changes.operation = request.operation;
  changes.partition = request.partition;
  changes.batch = state->last_batch();
  changes.complete = true;
  changes.maker = request.maker;
  state->mark_all();
  state->freeze();
  while (state->write(~std::size_t{0}, changes.blocks)) {
  }
  return changes;
}

void StateKeeper::forget(const std::vector<Key>& states) {
  const std::lock_guard lock(mutex_);
  for (const Key& key : states) {
    kept_.erase(key);
    states_.remove(key.first, key.second);
  }
}

}  // namespace sluice::detail
