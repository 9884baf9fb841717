#include "sluice/cluster/slots.h"

#include <algorithm>
#include <cstdio>

#include "sluice/core/hash.h"
#include "sluice/runtime/errors.h"

namespace sluice::detail {
namespace {

/// State is sent to executors in pieces of about this size.
constexpr std::size_t load_bytes = 1 << 20;

}  // namespace

Slots::Slots(Members& members, bool copies) : members_(members), copies_(copies) {}

Slots::Slot& Slots::slot(std::size_t partition) {
  partition %= key_groups;  // what is keyed has no more partitions
  if (partition >= slots_.size()) slots_.resize(partition + 1);
  return slots_[partition];
}

std::vector<ExecutorId> Slots::for_copies(const std::vector<ExecutorId>& ids, ExecutorId owner) const {
  std::vector<ExecutorId> here;
  std::vector<ExecutorId> elsewhere;
  const std::string host = members_.host(owner);
  for (const ExecutorId id : ids) {
    if (id != owner) (members_.host(id) == host ? here : elsewhere).push_back(id);
  }
  return elsewhere.empty() ? here : elsewhere;
}

Slots::Place Slots::place(std::size_t partition, std::uint64_t operation) {
  const std::vector<ExecutorId> ids = members_.ready();
  const std::lock_guard lock(mutex_);
  Slot& at = slot(partition);
  if (!ids.empty()) {
    if (at.owner == 0 && at.states.empty()) at.owner = ids[partition % ids.size()];
    // With state in it, it gets a copy between two batches.
    if (copies_ && at.copy == 0 && at.states.empty() && ids.size() > 1 && contains(ids, at.owner)) {
      const std::vector<ExecutorId> others = for_copies(ids, at.owner);
      const auto next = std::upper_bound(others.begin(), others.end(), at.owner);
      at.copy = next == others.end() ? others.front() : *next;
    }
  }
  return {at.owner, at.copy, at.is_lost, at.states.contains(operation), at.must_promote};
}

void Slots::add(const Shipped<StateMaker>& maker, std::size_t partition) {
  const std::lock_guard lock(mutex_);
  slot(partition).states.emplace(maker->operation(), maker);
}

// Executors that have all of the partition's state as it is wanted.
std::vector<ExecutorId> Slots::who_has(const std::vector<TaskRunner::WantedState>& wanted, std::size_t partition,
                                       const std::map<ExecutorId, std::vector<KeptState>>& kept) {
  std::vector<ExecutorId> ids;
  for (const auto& [id, states] : kept) {
    const bool has_all = std::all_of(wanted.begin(), wanted.end(), [&, &has = states](const auto& one) {
      return partition >= one.partitions || std::any_of(has.begin(), has.end(), [&](const KeptState& state) {
               // As of the later batch, unless that is not complete.
               const bool is_settled = state.waiting_batch != 0 && state.waiting_batch <= one.version;
               return state.operation == one.maker->operation() && state.partition == partition &&
                      (is_settled ? state.waiting_batch : state.batch) == one.version;
             });
    });
    if (has_all) ids.push_back(id);
  }
  return ids;
}

std::optional<std::set<std::size_t>> Slots::take_up(const TaskRunner::WantedStates& wanted,
                                                    const std::map<ExecutorId, std::vector<KeptState>>& kept) {
  std::set<std::size_t> missing;
  std::size_t partitions = 0;
  for (const TaskRunner::WantedState& one : wanted.states) partitions = std::max(partitions, one.partitions);
  std::vector<Slot> slots(partitions);
  std::map<ExecutorId, std::size_t> owned;
  std::map<ExecutorId, std::size_t> copied;
  Requests requests;
  for (std::size_t p = 0; p < partitions; ++p) {
    std::vector<ExecutorId> ids = who_has(wanted.states, p, kept);
    if (ids.empty()) {
      missing.insert(p);
      continue;
    }
    Slot& at = slots[p];
    at.owner = fewest(ids, owned);
    ++owned[at.owner];
    ids = for_copies(ids, at.owner);
    if (copies_ && !ids.empty()) {
      at.copy = fewest(ids, copied);
      ++copied[at.copy];
    }
    for (const TaskRunner::WantedState& one : wanted.states) {
      if (p >= one.partitions) continue;
      at.states.emplace(one.maker->operation(), one.maker);
      StateRequest request;
      request.what = StateRequest::What::take_up;
      request.operation = one.maker->operation();
      request.partition = static_cast<std::uint32_t>(p);
      request.number = one.version;
      requests.emplace_back(at.owner, request);
      request.of_copy = true;
      if (at.copy != 0) requests.emplace_back(at.copy, std::move(request));
    }
  }
  if (missing.size() == partitions || (!missing.empty() && !wanted.in_part)) return std::nullopt;
  {
    const std::lock_guard lock(mutex_);
    slots_ = std::move(slots);
    completed_ = wanted.batch.time_since_epoch().count();
    moved_ = true;
    settled_for_.clear();
  }
  for (const StateReply& reply : members_.call_all(std::move(requests))) {
    if (reply.error.empty()) continue;
    std::fprintf(stderr, "sluice: state that executors have kept cannot be gone on with: %s\n", reply.error.c_str());
    const std::lock_guard lock(mutex_);
    for (Slot& at : slots_) at = {};
    return std::nullopt;
  }
  return missing;
}

bool Slots::remove(std::uint64_t operation, std::size_t partition) {
  const std::lock_guard lock(mutex_);
  Slot& at = slot(partition);
  if (at.states.erase(operation) == 0) return false;
  at.is_lost = at.is_lost && !at.states.empty();
  return true;
}

void Slots::lost(ExecutorId id) {
  const std::lock_guard lock(mutex_);
  for (Slot& at : slots_) {
    if (at.owner != id && at.copy != id) continue;
    settled_for_.clear();
    moved_ = true;  // also of state whose first batch is running
    if (at.owner == id) {
      // A copy that has not been told yet that it is the state is as good as before.
      at.owner = at.copy;
      at.must_promote = at.owner != 0;
      must_settle_ = must_settle_ || at.must_promote;
      at.is_lost = at.owner == 0 && !at.states.empty();
    }
    at.copy = 0;
  }
}

void Slots::copy_lost(ExecutorId owner, ExecutorId copy) {
  const std::lock_guard lock(mutex_);
  for (Slot& at : slots_) {
    if (at.owner != owner || at.copy != copy) continue;
    settled_for_.clear();
    moved_ = true;
    at.copy = 0;
  }
}

void Slots::add_requests(const Slot& at, StateRequest::What what, ExecutorId to, Requests& requests) const {
  for (const auto& [operation, maker] : at.states) {
    StateRequest request;
    request.what = what;
    request.operation = operation;
    request.partition = static_cast<std::uint32_t>(&at - slots_.data());
    request.number = request.batch = completed_;
    requests.emplace_back(to, std::move(request));
  }
}

void Slots::settle() {
  Requests requests;
  {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(must_settle_, false)) return;
    for (Slot& at : slots_) {
      if (!std::exchange(at.must_promote, false)) continue;
      add_requests(at, StateRequest::What::promote, at.owner, requests);
    }
  }
  std::vector<std::size_t> numbers;
  for (const auto& [executor, request] : requests) numbers.push_back(request.partition);
  const std::vector<StateReply> replies = members_.call_all(std::move(requests));
  for (std::size_t i = 0; i < replies.size(); ++i) {
    if (replies[i].error.empty()) continue;
    // It is lost as well, or had no copy after all.
    std::fprintf(stderr, "sluice: state could not be taken over: %s\n", replies[i].error.c_str());
    const std::lock_guard lock(mutex_);
    slots_[numbers[i]].is_lost = true;
  }
}

void Slots::completed(std::int64_t batch) {
  {
    const std::lock_guard lock(mutex_);
    completed_ = batch;
  }
  settle();
  const std::vector<ExecutorId> ids = members_.ready();
  {
    const std::lock_guard lock(mutex_);
    if (ids == settled_for_) return;
    settled_for_ = ids;
  }
  while (make_copy() || move_one()) {
  }
}

bool Slots::is_free(ExecutorId id) {
  const std::vector<ExecutorId> ids = members_.ready();
  const std::lock_guard lock(mutex_);
  for (Slot& at : slots_) {
    if (at.owner == id) return false;
    if (at.copy != id) continue;
    if (lacks_copy(at, ids, {id})) return false;
    at.copy = 0;  // there is nobody else to keep one
    moved_ = true;
  }
  return true;
}

std::map<ExecutorId, std::size_t> Slots::count(const std::vector<ExecutorId>& ids, ExecutorId Slot::* role) const {
  std::map<ExecutorId, std::size_t> counts;
  for (const ExecutorId id : ids) counts[id] = 0;
  for (const Slot& at : slots_) {
    if (const auto found = counts.find(at.*role); found != counts.end()) ++found->second;
  }
  return counts;
}

// A copy that lies on an executor that leaves is as good as none, once there is another place for it. Of what an owner
// that leaves has a copy is made in any case: that one takes over.
bool Slots::lacks_copy(const Slot& at, const std::vector<ExecutorId>& ids,
                       const std::vector<ExecutorId>& leaving) const {
  if (at.is_lost || at.must_promote || at.states.empty()) return false;
  if (at.copy != 0 && !contains(ids, at.copy) && !contains(leaving, at.copy)) return false;  // it is being lost
  // As usual: then all the others need not be looked at, for each slot.
  const bool has_copy = contains(ids, at.copy) && members_.host(at.copy) != members_.host(at.owner);
  if (has_copy) return false;
  const std::vector<ExecutorId> others = for_copies(ids, at.owner);
  if (contains(leaving, at.owner)) return !contains(ids, at.copy) && !ids.empty();
  // One on the owner's host is moved when there is another host.
  return copies_ && contains(ids, at.owner) && !others.empty() && !contains(others, at.copy);
}

// False when there is nothing to do, or it cannot be done now.
bool Slots::make_copy() {
  const std::vector<ExecutorId> ids = members_.ready();
  const std::vector<ExecutorId> leaving = members_.leaving();
  Requests requests;
  std::size_t number = 0;
  ExecutorId owner = 0;
  ExecutorId target = 0;
  ExecutorId before = 0;
  Requests dropped;
  {
    const std::lock_guard lock(mutex_);
    std::map<ExecutorId, std::size_t> kept = count(ids, &Slot::copy);
    const auto lacking =
        std::find_if(slots_.begin(), slots_.end(), [&](const Slot& at) { return lacks_copy(at, ids, leaving); });
    if (lacking == slots_.end()) return false;
    number = static_cast<std::size_t>(lacking - slots_.begin());
    owner = lacking->owner;
    before = lacking->copy;
    target = fewest(for_copies(ids, owner), kept);
    add_requests(*lacking, StateRequest::What::copy, owner, requests);
    for (auto& [executor, request] : requests) {
      request.number = target;
      request.maker = encoded(lacking->states.at(request.operation));
    }
    moved_ = true;  // whatever comes of it: who has been asked knows no more what has changed
  }
  try {
    for (auto& [executor, request] : requests) members_.call(executor, std::move(request));
  } catch (const Error& error) {
    // Tried again after the next batch.
    std::fprintf(stderr, "sluice: a copy of state could not be made: %s\n", error.details().why.c_str());
    const std::lock_guard lock(mutex_);
    settled_for_.clear();
    return false;
  }
  const bool is_alive = members_.is_alive(target);
  {
    const std::lock_guard lock(mutex_);
    if (slots_[number].owner != owner || !is_alive) return true;
    slots_[number].copy = target;
    if (before != 0) add_requests(slots_[number], StateRequest::What::drop_copy, before, dropped);
  }
  try {
    for (auto& [executor, request] : dropped) members_.call(executor, std::move(request));
  } catch (const Error& error) {
    std::fprintf(stderr, "sluice: a copy of state could not be dropped: %s\n", error.details().why.c_str());
  }
  return true;
}

// A slot that is to have another owner: that of an executor that leaves, or that has most.
std::vector<Slots::Slot>::iterator Slots::choose_move(const std::vector<ExecutorId>& ids,
                                                      const std::vector<ExecutorId>& leaving) {
  for (auto at = slots_.begin(); at != slots_.end(); ++at) {
    const bool can_move = !at->must_promote && (at->states.empty() || contains(ids, at->copy));
    if (can_move && contains(leaving, at->owner)) return at;
  }
  if (ids.size() < 2) return slots_.end();
  const std::map<ExecutorId, std::size_t> owned = count(ids, &Slot::owner);
  const auto [least, most] =
      std::minmax_element(owned.begin(), owned.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most->second - least->second < 2) return slots_.end();
  return std::find_if(slots_.begin(), slots_.end(), [had = most->first, gets = least->first](const Slot& at) {
    return at.owner == had && (at.states.empty() || at.copy == gets) && !at.must_promote;
  });
}

// The owner of a slot and who keeps the copy change roles.
bool Slots::move_one() {
  const std::vector<ExecutorId> ids = members_.ready();
  const std::vector<ExecutorId> leaving = members_.leaving();
  Requests requests;
  std::size_t number = 0;
  ExecutorId from = 0;
  ExecutorId to = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto moving = choose_move(ids, leaving);
    if (moving == slots_.end()) return false;
    if (moving->states.empty()) {
      std::map<ExecutorId, std::size_t> owned = count(ids, &Slot::owner);
      moving->owner = fewest(ids, owned);
      moving->copy = 0;
      return true;
    }
    number = static_cast<std::size_t>(moving - slots_.begin());
    from = moving->owner;
    to = moving->copy;
    add_requests(*moving, StateRequest::What::promote, to, requests);
    add_requests(*moving, StateRequest::What::demote, from, requests);
    moved_ = true;
  }
  bool is_done = true;
  try {
    for (auto& [executor, request] : requests) members_.call(executor, std::move(request));
  } catch (const Error& error) {
    std::fprintf(stderr, "sluice: state could not be moved: %s\n", error.details().why.c_str());
    is_done = false;
  }
  const std::lock_guard lock(mutex_);
  Slot& at = slots_[number];
  if (is_done && at.owner == from && at.copy == to) {
    std::swap(at.owner, at.copy);
    return true;
  }
  // One of the two is lost, and the other may be half way.
  at.must_promote = at.owner != 0;
  must_settle_ = must_settle_ || at.must_promote;
  settled_for_.clear();
  return false;
}

std::int64_t Slots::completed_batch() {
  const std::lock_guard lock(mutex_);
  return completed_;
}

bool Slots::take_moved() {
  const std::lock_guard lock(mutex_);
  return std::exchange(moved_, false);
}

// ---- For the driver

namespace {

/// See make_remote_state. Checkpoints are written by the executor that keeps the copy, where there is one: what it
/// takes in counts as changed there, and the owner's changes go into its messages to the copy.
class RemoteState final : public StatePartition {
 public:
  RemoteState(Slots& slots, Shipped<StateMaker> maker, std::size_t partition, std::function<void()> removed)
      : slots_(slots), maker_(std::move(maker)), partition_(partition), removed_(std::move(removed)) {}
  ~RemoteState() override {
    if (slots_.remove(maker_->operation(), partition_)) removed_();
  }

  void track() override {}
  void begin_freeze() override {
    const Slots::Place at = place();
    frozen_ = last_batch_ = 0;
    freezing_ = nullptr;
    has_begun_ = true;
    if (!at.has_state) return;  // it has had no batch yet
    frozen_at_ = at.copy != 0 ? at.copy : at.owner;
    is_copy_ = at.copy != 0;
    StateRequest request = to(StateRequest::What::freeze);
    request.of_copy = is_copy_;
    request.number = slots_.completed_batch();
    request.all = std::exchange(all_changed_, false);
    freezing_ = slots_.members().ask(frozen_at_, std::move(request));
  }
  void freeze() override {
    if (!has_begun_) begin_freeze();
    has_begun_ = false;
    if (freezing_ == nullptr) return;
    const StateReply reply = slots_.members().wait_for(std::exchange(freezing_, nullptr));
    frozen_ = reply.number;
    last_batch_ = reply.batch;
  }
  bool write(std::size_t bytes_max, std::vector<StateBlock>& out) override {
    if (frozen_ == 0) return false;
    StateRequest request = to(StateRequest::What::write);
    request.frozen = frozen_;
    request.of_copy = is_copy_;
    request.number = static_cast<std::int64_t>(std::min<std::size_t>(bytes_max, std::size_t{1} << 40));
    StateReply reply = call(frozen_at_, std::move(request));
    for (StateBlock& block : reply.blocks) out.push_back(std::move(block));
    return reply.more;
  }
  void load(const StateBlock& block, const StateSchema& written) override {
    if (!loading_.empty() && !(loading_written_ == written)) flush();
    loading_written_ = written;
    loading_bytes_ += block.bytes.size();
    loading_.push_back(block);
    if (loading_bytes_ >= load_bytes) flush();
  }
  void loaded(std::int64_t version) override {
    flush();
    StateRequest request = to(StateRequest::What::loaded);
    request.number = version;
    call_both(request);
  }
  std::int64_t last_batch() const override { return last_batch_; }
  void mark_all() override { all_changed_ = true; }
  void apply(std::span<const StateBlock>, std::int64_t) override { SLUICE_ASSERT(false); }

 private:
  StateRequest to(StateRequest::What what) const {
    StateRequest request;
    request.what = what;
    request.operation = maker_->operation();
    request.partition = static_cast<std::uint32_t>(partition_);
    return request;
  }
  Slots::Place place() const {
    slots_.settle();
    return slots_.place(partition_, maker_->operation());
  }
  StateReply call(ExecutorId id, StateRequest request) const { return slots_.members().call(id, std::move(request)); }
  void flush() {
    if (!is_made_) {
      StateRequest request = to(StateRequest::What::make);
      request.maker = encoded(maker_);
      const Slots::Place made = call_both(request);
      slots_.add(maker_, partition_);
      is_made_ = true;
      const Slots::Place at = place();
      if (at.copy != made.copy) slots_.copy_lost(at.owner, at.copy);
    }
    if (loading_.empty()) return;
    StateRequest request = to(StateRequest::What::load);
    request.blocks = std::exchange(loading_, {});
    request.written = loading_written_;
    loading_bytes_ = 0;
    call_both(request);
  }
  // Without the copy it goes on.
  Slots::Place call_both(const StateRequest& request) const {
    const Slots::Place at = place();
    call(at.owner, request);
    if (at.copy == 0) return at;
    StateRequest of_copy = request;
    of_copy.of_copy = true;
    try {
      call(at.copy, std::move(of_copy));
    } catch (const Error&) {
      slots_.copy_lost(at.owner, at.copy);
    }
    return at;
  }

  Slots& slots_;
  const Shipped<StateMaker> maker_;
  const std::size_t partition_;
  const std::function<void()> removed_;
  bool is_made_ = false;
  ExecutorId frozen_at_ = 0;
  std::int64_t frozen_ = 0;
  bool is_copy_ = false;
  bool all_changed_ = false;
  bool has_begun_ = false;
  std::shared_ptr<Members::Call> freezing_;
  std::int64_t last_batch_ = 0;
  std::vector<StateBlock> loading_;
  std::size_t loading_bytes_ = 0;
  StateSchema loading_written_;
};

}  // namespace

std::shared_ptr<StatePartition> make_remote_state(Slots& slots, const Shipped<StateMaker>& maker, std::size_t partition,
                                                  std::function<void()> removed) {
  return std::make_shared<RemoteState>(slots, maker, partition, std::move(removed));
}

}  // namespace sluice::detail
