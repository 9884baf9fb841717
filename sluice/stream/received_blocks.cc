#include "sluice/stream/received_blocks.h"

#include <utility>

namespace sluice::detail {

// ---- ReceiverBudget

ReceiverBudget::ReceiverBudget(Runtime& runtime, std::size_t limit_bytes)
    : limit_(limit_bytes), freed_(runtime.condition()) {}

bool ReceiverBudget::acquire(std::size_t bytes) {
  std::unique_lock lock(mutex_);
  while (!cancelled_ && used_ > 0 && used_ + bytes > limit_) freed_->wait(lock);
  if (cancelled_) return false;
  used_ += bytes;
  return true;
}

void ReceiverBudget::take(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  used_ += bytes;
}

void ReceiverBudget::release(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  SLUICE_ASSERT(used_ >= bytes);
  used_ -= bytes;
  freed_->notify_all();
}

void ReceiverBudget::cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  freed_->notify_all();
}

std::size_t ReceiverBudget::used() {
  const std::lock_guard lock(mutex_);
  return used_;
}

// ---- ReceivedBlocks

ReceivedBlocks::ReceivedBlocks(std::shared_ptr<BlockRecorder> recorder, std::uint64_t number_before,
                               std::string position)
    : recorder_(std::move(recorder)), last_number_(number_before), position_(std::move(position)) {}

std::uint64_t ReceivedBlocks::put(NewBlock block, Time stored) {
  ReceivedBlock received;
  received.source = std::move(block.source);
  received.bytes = block.bytes;
  received.records = block.records;
  received.stored = stored;
  return add(std::move(received), block.logged, std::move(block.position));
}

std::uint64_t ReceivedBlocks::put_elsewhere(ReceivedBlock block, const MemoryBlock& logged, std::string position) {
  return add(std::move(block), [&logged] { return logged; }, std::move(position));
}

// The record comes before the block can be taken for a batch (journal.h, J2); neither waits.
std::uint64_t ReceivedBlocks::add(ReceivedBlock block, const std::function<MemoryBlock()>& logged,
                                  std::string position) {
  const std::lock_guard lock(mutex_);
  block.number = ++last_number_;
  std::uint64_t place = 0;
  if (!position.empty()) position_ = position;
  if (recorder_ != nullptr) {
    const std::uint64_t owner = block.lease == nullptr ? 0 : block.lease->owner;
    const RecordedBlock recorded{block.number, block.bytes,         block.records, block.stored,
                                 std::nullopt, std::move(position), owner};
    const BlockRecorder::Recorded where = recorder_->record(recorded, logged());
    place = where.place;
    block.handle = where.handle;
  }
  blocks_.push_back(std::move(block));
  return place;
}

bool ReceivedBlocks::wait_stored(std::uint64_t place) {
  if (recorder_ != nullptr) recorder_->wait_durable(place);
  return true;
}

std::string ReceivedBlocks::position() {
  const std::lock_guard lock(mutex_);
  return position_;
}

std::vector<ReceivedBlock> ReceivedBlocks::take_until(Time time) {
  const std::lock_guard lock(mutex_);
  std::vector<ReceivedBlock> taken;
  while (!blocks_.empty() && blocks_.front().stored <= time) {
    taken.push_back(std::move(blocks_.front()));
    blocks_.pop_front();
  }
  return taken;
}

bool ReceivedBlocks::has_blocks() {
  const std::lock_guard lock(mutex_);
  return !blocks_.empty();
}

std::vector<Input::ReceiverEvent> ReceivedBlocks::take_events() {
  const std::lock_guard lock(mutex_);
  return std::exchange(events_, {});
}

void ReceivedBlocks::add_event(Input::ReceiverEvent event) {
  const std::lock_guard lock(mutex_);
  // A receiver that fails in a tight loop must not fill the memory; the latest errors count.
  if (events_.size() >= 100) events_.erase(events_.begin());
  events_.push_back(std::move(event));
}

}  // namespace sluice::detail
