// Driver: checkpoints, cut between two batches and written while there is time.
#include "sluice/runtime/kill_point.h"
#include "sluice/stream/driver.h"
#include "sluice/stream/large_state.h"

namespace sluice::detail {
namespace {

// Written at once, so that a batch that comes due is not held up.
constexpr std::size_t slice_bytes = 64 << 10;
// Slices after a batch that is followed by the next one at once: so that a checkpoint comes to its end.
constexpr int slices_when_late = 4;
// How often a checkpoint that must be there is begun when executors that had state end under it.
constexpr int checkpoint_tries = 10;

}  // namespace

void Driver::checkpoint_if_due(Time time, bool at_once) {
  if (directory_ == nullptr || options_.replay.has_value()) return;
  directory_->checkpointer().check();
  directory_->clean(held_for_);
  if (at_once) {
    if (saving_ != nullptr) save_all();
    directory_->checkpointer().wait_idle();
    if (last_checkpoint_ != time || whole_base_) checkpoint_now(time);
    return;
  }
  if (saving_ != nullptr) {
    const bool late = engine_->runtime().clock().now() >= time + options_.interval;
    for (int i = 0; late && i < slices_when_late; ++i) {
      if (!save_some()) break;
    }
    return;
  }
  if ((time - last_checkpoint_ >= options_.checkpoint_interval || whole_base_) && directory_->checkpointer().idle()) {
    begin_checkpoint(time);
  }
}

void Driver::checkpoint_now(Time time) {
  for (int tries = 1;; ++tries) {
    begin_checkpoint(time);
    save_all();
    if (!whole_base_) return;
    if (tries == checkpoint_tries) {
      throw Error(Code::state_lost, {.why = "executors have ended while a checkpoint was written"});
    }
  }
}

// Executors that had state have ended: what they knew of changes is gone with them.
void Driver::abandon_checkpoint() {
  saving_ = nullptr;
  whole_base_ = all_changed_ = true;
}

void Driver::begin_checkpoint(Time time) {
  if (engine_->runner().take_state_moved()) whole_base_ = all_changed_ = true;
  try {
    freeze_state(time);
  } catch (const Error& error) {
    if (error.code() != Code::state_lost) throw;
    abandon_checkpoint();
  }
}

void Driver::freeze_state(Time time) {
  Manifest manifest;
  manifest.time = time;
  manifest.epoch = directory_->epoch();
  manifest.build = build_of_program();
  manifest.app = options_.app;
  manifest.zero = zero_;
  manifest.interval = options_.interval;
  manifest.hash_seed = engine_->options().hash_seed;
  saving_ = std::make_unique<Saving>();
  std::vector<std::function<StateSnapshot()>> snapshots;
  for (const StreamNodePtr& stream : streams_) {
    if (stream->state) {
      const auto index = static_cast<std::uint32_t>(manifest.operators.size());
      manifest.operators.push_back({stream->info->name, stream->state->schema, stream->state->partitions});
      if (stream->state->large != nullptr) {
        snapshots.push_back(stream->state->large->freeze(index, snapshot_name(time, manifest.epoch, index)));
      }
      for (std::size_t p = 0; p < stream->state->partitions; ++p) {
        auto state = engine_->states().find(stream->state->operation, p);
        if (state == nullptr) continue;
        if (all_changed_) state->mark_all();
        state->begin_freeze();
        saving_->partitions.push_back({index, std::move(state)});
      }
    }
    if (stream->kept_as.empty()) continue;
    const auto index = static_cast<std::uint32_t>(manifest.operators.size());
    StateSchema schema;
    schema.kind = kept_kind;
    schema.value = stream->type->schema();
    schema.log_length = stream->keep.count();
    schema.slide = stream->slide.count();
    manifest.operators.push_back({stream->kept_as, schema, 0});
    for (const auto& [at, node] : stream->made()) {
      if (at <= time && (at > last_checkpoint_ || whole_base_ || last_checkpoint_ == zero_)) {
        saving_->kept.push_back({index, at, node});
      }
    }
  }
  for (const Saving::Partition& partition : saving_->partitions) {
    partition.state->freeze();
    manifest.operators[partition.operator_index].batch = partition.state->last_batch();
  }
  for (const InputSlot& slot : inputs_) {
    Encoder out;
    slot.input->save(out);
    manifest.inputs[slot.identity] = out.take();
  }
  if (engine_->runner().take_state_moved()) {
    throw Error(Code::state_lost, {.why = "state has moved while it was frozen"});
  }
  kill_point("checkpoint.begin");
  last_checkpoint_ = time;
  directory_->checkpointer().begin(std::move(manifest), directory_->journal().log().end(), whole_base_);
  whole_base_ = all_changed_ = false;
  for (auto& make : snapshots) directory_->checkpointer().add(std::move(make));
}

// False when all is handed over.
bool Driver::save_some() {
  if (saving_ == nullptr) return false;
  Checkpointer& checkpointer = directory_->checkpointer();
  if (!saving_->partitions.empty()) {
    const Saving::Partition& front = saving_->partitions.front();
    std::vector<StateBlock> blocks;
    bool more = false;
    try {
      more = front.state->write(slice_bytes, blocks);
    } catch (const Error& error) {
      if (error.code() != Code::state_lost) throw;
      checkpointer.abandon();
      abandon_checkpoint();
      return false;
    }
    if (!blocks.empty()) checkpointer.add(front.operator_index, std::move(blocks));
    if (!more) saving_->partitions.pop_front();
  } else if (!saving_->kept.empty()) {
    const Saving::Kept kept = std::move(saving_->kept.front());
    saving_->kept.pop_front();
    JobResult result = std::move(engine_->run({kept.node}, {kept.time, &cancelled_, {}})[0]);
    if (result.error != nullptr) std::rethrow_exception(result.error);
    std::vector<StateBlock> blocks;
    for (std::size_t p = 0; p < result.partitions.size(); ++p) {
      Encoder out;
      out.u32(static_cast<std::uint32_t>(result.partitions.size()));
      out.u8(kept.node->by_key ? 1 : 0);
      result.partitions[p]->encode_to(out);
      blocks.push_back(
          {StateBlock::What::log, static_cast<std::uint32_t>(p), kept.time.time_since_epoch().count(), out.take()});
    }
    checkpointer.add(kept.operator_index, std::move(blocks));
  }
  if (!saving_->partitions.empty() || !saving_->kept.empty()) return true;
  checkpointer.end();
  saving_ = nullptr;
  return false;
}

void Driver::save_all() {
  while (save_some()) {
  }
  directory_->checkpointer().wait_idle();
}

}  // namespace sluice::detail
