// Driver: the state that a stream begins with: that of a checkpoint, or what executors have kept.
#include <algorithm>
#include <cstdio>
#include <set>

#include "sluice/runtime/kill_point.h"
#include "sluice/stream/driver.h"
#include "sluice/stream/large_state.h"

namespace sluice::detail {
namespace {

// How often state is loaded when executors end under it.
constexpr int load_tries = 10;

// The batch whose outcome an operator's state in a checkpoint is.
std::int64_t version_of(const Manifest& manifest, const StreamNode& stream) {
  for (const CheckpointOperator& saved : manifest.operators) {
    if (saved.schema.kind != kept_kind && stream.info->is_called(saved.name)) return saved.batch;
  }
  return 0;
}

}  // namespace

// What the stream's state begins with; nullptr: with nothing.
const CheckpointOperator* Driver::taken_up(const Manifest& manifest, const StreamNode& stream) const {
  for (const CheckpointOperator& saved : manifest.operators) {
    const auto& drop = options_.drop_state;
    const bool is_dropped = std::find(drop.begin(), drop.end(), saved.name) != drop.end();
    if (!is_dropped && saved.schema.kind != kept_kind && stream.info->is_called(saved.name)) return &saved;
  }
  return nullptr;
}

// State that does not lie in memory begins with what its snapshot in the checkpoint has.
void Driver::open_large_states(const Manifest* manifest) {
  StateStore& states = engine_->states();
  std::size_t number = 0;
  for (const StreamNodePtr& stream : streams_) {
    if (!stream->state) continue;
    const StateBinding& state = *stream->state;
    const CheckpointOperator* const written = manifest == nullptr ? nullptr : taken_up(*manifest, *stream);
    const StateSnapshot* const snapshot =
        written == nullptr ? nullptr
                           : snapshot_of(*manifest, static_cast<std::size_t>(written - &manifest->operators[0]));
    // What is written anew is all of it.
    whole_base_ = whole_base_ || (written != nullptr && (snapshot != nullptr) != (state.large != nullptr));
    try {
      if (state.large != nullptr) {
        state.large->open(
            {engine_->runtime(), options_.checkpoint, directory_->epoch(), number++, options_.replay.has_value()},
            snapshot, state.schema);
        for (std::size_t p = 0; p < state.partitions; ++p) {
          states.put(state.operation, p, state.make_large(state.large, p, engine_->options().hash_seed));
        }
      } else if (snapshot != nullptr) {
        read_snapshot(state.read_large, engine_->runtime().files(), options_.checkpoint, *snapshot, written->schema,
                      [&](const StateBlock& block, const StateSchema& schema) {
                        for (std::size_t p = 0; p < state.partitions; ++p) {
                          states.find(state.operation, p)->load(block, schema);
                        }
                      });
      }
    } catch (...) {
      rethrow_at(*stream->info);
    }
  }
}

// So that checkpoints know it from the first batch on.
void Driver::find_states_elsewhere() {
  if (!engine_->runner().has_state_elsewhere()) return;
  for (const StreamNodePtr& stream : streams_) {
    if (!stream->state) continue;
    if (stream->state->large != nullptr) {
      fail_at(*stream->info, Code::no_state_backend, "on a cluster it is kept in memory: leave out .state(...)");
    }
    for (std::size_t p = 0; p < stream->state->partitions; ++p) {
      if (engine_->states().find(stream->state->operation, p) != nullptr) continue;
      engine_->states().put(stream->state->operation, p, engine_->runner().make_state(stream->state->maker, p));
    }
  }
}

void Driver::close_large_states() {
  for (const StreamNodePtr& stream : streams_) {
    if (!stream->state || stream->state->large == nullptr) continue;
    engine_->states().remove(stream->state->operation);
    stream->state->large->close();
  }
}

// What executors have kept is of the same graph and of the same run of batches, else it is another application's.
std::string Driver::application() const {
  std::string text =
      options_.app + "\n" + options_.checkpoint + "\n" + std::to_string(zero_.time_since_epoch().count());
  for (const StreamNodePtr& stream : streams_) {
    if (!stream->state) continue;
    const StateSchema& schema = stream->state->schema;
    text += "\n" + std::to_string(stream->state->operation) + " " + stream->info->name + " " + schema.kind + " " +
            schema.key + " " + schema.value + " " + std::to_string(stream->state->partitions);
  }
  return text;
}

// Those with state, and what is made of them.
std::set<const StreamNode*> Driver::streams_of_state() const {
  std::set<const StreamNode*> of_state;
  for (const StreamNodePtr& stream : streams_) {  // parents come first
    const auto& parents = stream->parents;
    const bool comes_of_state =
        stream->state.has_value() || std::any_of(parents.begin(), parents.end(), [&](const StreamNodePtr& parent) {
          return of_state.contains(parent.get());
        });
    if (comes_of_state) of_state.insert(stream.get());
  }
  return of_state;
}

// Past RDDs of windows are made by running batches again. Not where that would ask for the state of a past batch.
bool Driver::can_make_kept_again() const {
  const std::set<const StreamNode*> of_state = streams_of_state();
  return std::none_of(streams_.begin(), streams_.end(), [&](const StreamNodePtr& stream) {
    return of_state.contains(stream.get()) && !stream->kept_as.empty();
  });
}

// The same of some partitions of state, where others are ahead.
bool Driver::can_make_state_in_part() const {
  const std::set<const StreamNode*> of_state = streams_of_state();
  return std::none_of(streams_.begin(), streams_.end(), [&](const StreamNodePtr& stream) {
    return stream->state.has_value() &&
           std::any_of(stream->parents.begin(), stream->parents.end(),
                       [&](const StreamNodePtr& parent) { return of_state.contains(parent.get()); });
  });
}

std::map<std::string, StreamNodePtr> Driver::kept_streams() const {
  std::map<std::string, StreamNodePtr> kept;
  for (const StreamNodePtr& stream : streams_) {
    if (!stream->kept_as.empty()) kept.emplace(stream->kept_as, stream);
  }
  return kept;
}

void Driver::regroup_kept() {
  for (const auto& [name, stream] : kept_streams()) {
    const std::map<Time, NodePtr> made = stream->made();
    for (const auto& [time, node] : made) {
      if (stream->regroup) stream->put_made(time, stream->regroup(*engine_, node));
    }
  }
}

// True when executors that have outlived the driver before have state as of the last complete batch. What is missing is
// loaded, and complete batches run again for that alone.
bool Driver::take_up_state() {
  state_as_of_ = {};
  missing_.clear();
  if (!records() || !engine_->runner().has_state_elsewhere()) return false;
  const auto& manifest = directory_->manifest();
  TaskRunner::WantedStates wanted{
      .epoch = directory_->journal_content().epoch, .batch = {}, .states = {}, .blocks = {}};
  for (const InputSlot& slot : inputs_) {
    const auto blocks = directory_->journal_content().blocks.find(slot.identity);
    if (blocks == directory_->journal_content().blocks.end()) continue;
    for (const auto& [number, block] : blocks->second) {
      if (block.owner != 0) wanted.blocks.push_back(block.owner);
    }
  }
  if (manifest.has_value() && can_make_kept_again() && options_.drop_state.empty()) {
    const auto& batches = directory_->journal_content().batches;
    Time complete = manifest->time;
    for (auto it = batches.upper_bound(complete); it != batches.end() && it->second.complete; ++it)
      complete = it->first;
    for (const StreamNodePtr& stream : streams_) {
      if (!stream->state) continue;
      std::int64_t version = version_of(*manifest, *stream);
      for (auto it = batches.upper_bound(manifest->time); it != batches.end() && it->first <= complete; ++it) {
        const bool has_batch = (it->first - manifest->zero) % stream->slide == Duration{};
        if (has_batch) version = it->first.time_since_epoch().count();
      }
      wanted.states.push_back({stream->state->maker, stream->state->partitions, version});
    }
    wanted.batch = complete;
    wanted.in_part = can_make_state_in_part();
  }
  const auto missing = engine_->runner().take_up_state(application(), directory_->epoch(), wanted);
  if (!missing.has_value()) return false;
  missing_ = *missing;
  for (const TaskRunner::WantedState& one : wanted.states) {
    for (std::size_t p = 0; p < one.partitions; ++p) {
      if (missing_.contains(p)) continue;
      engine_->states().put(one.maker->operation(), p, engine_->runner().make_state(one.maker, p));
    }
  }
  load_state(*directory_, missing_);
  whole_base_ = all_changed_ = true;
  state_as_of_ = wanted.batch;
  std::fprintf(stderr, "sluice: executors have kept the state as of batch %lld ms", to_milliseconds(state_as_of_));
  if (!missing_.empty()) {
    std::fprintf(stderr, "; %zu partitions that nobody had are taken from the checkpoint of batch %lld ms",
                 missing_.size(), to_milliseconds(last_batch_));
  }
  std::fputs("\n", stderr);
  return true;
}

// Executors have ended that had state which nobody else has: with what is recorded it can be had again.
bool Driver::is_lost_state(const std::exception_ptr& error) const {
  if (!records() || !engine_->runner().has_state_elsewhere()) return false;
  try {
    std::rethrow_exception(error);
  } catch (const Error& known) {
    return known.code() == Code::state_lost || known.code() == Code::state_is_gone;
  } catch (...) {
    return false;
  }
}

// With `missing`, of state only these partitions. Executors that end meanwhile may take along what they have just been
// given.
void Driver::load_state(CheckpointDirectory& from, const std::optional<std::set<std::size_t>>& missing) {
  for (int tries = 1;; ++tries) {
    try {
      return try_to_load_state(from, missing);
    } catch (const Error& error) {
      if (tries == load_tries || !is_lost_state(std::current_exception())) throw;
      std::fprintf(stderr, "sluice: state is loaded again: %s\n", error.what());
    }
  }
}

void Driver::try_to_load_state(CheckpointDirectory& from, const std::optional<std::set<std::size_t>>& missing) {
  std::vector<StreamNodePtr> with_state;
  for (const StreamNodePtr& stream : streams_) {
    if (stream->state) with_state.push_back(stream);
  }
  const std::map<std::string, StreamNodePtr> kept = kept_streams();
  StateStore& states = engine_->states();
  while (from.manifest().has_value()) {
    const Manifest manifest = *from.manifest();
    whole_base_ = false;
    std::map<std::string, StreamNodePtr> by_name;
    for (const CheckpointOperator& saved : manifest.operators) {
      const auto& drop = options_.drop_state;
      if (std::find(drop.begin(), drop.end(), saved.name) != drop.end()) {
        whole_base_ = true;
        continue;
      }
      for (const StreamNodePtr& stream : with_state) {
        if (saved.schema.kind == kept_kind || !stream->info->is_called(saved.name)) continue;
        by_name.emplace(saved.name, stream);
        whole_base_ = whole_base_ || stream->info->name != saved.name || stream->state->schema != saved.schema ||
                      stream->state->partitions != saved.partitions;
      }
    }
    whole_base_ = whole_base_ || by_name.size() != with_state.size() ||
                  manifest.operators.size() != with_state.size() + kept.size();
    const auto for_each_missing = [&missing](const StateBinding& state, const auto& f) {
      for (std::size_t p = 0; p < state.partitions; ++p) {
        if (!missing.has_value() || missing->contains(p)) f(p);
      }
    };
    for (const StreamNodePtr& stream : with_state) {
      const StateBinding& state = *stream->state;
      for_each_missing(state, [&](std::size_t p) { states.remove(state.operation, p); });
      if (state.large != nullptr) continue;
      for_each_missing(
          state, [&](std::size_t p) { states.put(state.operation, p, engine_->runner().make_state(state.maker, p)); });
    }
    const auto load = [&](const CheckpointOperator& saved, StateBlock&& block) {
      kill_point("recovery.mid_state");
      if (saved.schema.kind == kept_kind) return load_kept(kept, manifest, saved, std::move(block));
      const auto to = by_name.find(saved.name);
      if (to == by_name.end()) return;
      const StateBinding& state = *to->second->state;
      for_each_missing(state, [&](std::size_t p) {
        // Its keys are of one partition; those of a log may be of all.
        const bool is_elsewhere =
            block.what == StateBlock::What::entries && partition_of_group(block.group, state.partitions) != p;
        if (!is_elsewhere) states.find(state.operation, p)->load(block, saved.schema);
      });
    };
    const bool needs_none = missing.has_value() && missing->empty() && kept.empty();
    const bool whole = needs_none || from.read_state([&] { open_large_states(&manifest); }, load);
    if (!whole) {  // an older checkpoint, which does not have what came after it
      for (const auto& [name, stream] : kept) stream->forget_before(Time::max());
      continue;
    }
    for (const StreamNodePtr& stream : with_state) {
      for_each_missing(*stream->state, [&](std::size_t p) {
        const auto partition = states.find(stream->state->operation, p);
        partition->loaded(version_of(manifest, *stream));
        if (whole_base_) partition->mark_all();
      });
    }
    regroup_kept();
    zero_ = manifest.zero;
    last_batch_ = manifest.time;
    return;
  }
}

// A partition of a past RDD. All of an RDD's partitions come one after the other.
void Driver::load_kept(const std::map<std::string, StreamNodePtr>& kept, const Manifest& manifest,
                       const CheckpointOperator& from, StateBlock&& block) {
  const auto to = kept.find(from.name);
  if (to == kept.end()) return;
  StreamNode& stream = *to->second;
  const Time time{Duration(block.batch)};
  if (time <= manifest.time - stream.keep) return;
  if (from.schema.value != stream.type->schema()) {
    fail_at(*stream.info, Code::state_does_not_fit,
            "the checkpoint has records of " + from.schema.value + ", the program of " + stream.type->schema());
  }
  Decoder in(block.bytes);
  const std::uint32_t partitions = in.u32();
  const bool by_key = in.u8() != 0;
  const RestedPtr records = RestedRecords::decode_from(in, *stream.type);
  in.expect_end();
  auto sources = std::vector<Shipped<Source>>();
  const auto made = stream.made().find(time);
  if (made != stream.made().end() && made->second->partitions != partitions && block.group != 0) {
    sources = std::get<SourceBody>(made->second->body).sources;
  }
  sources.push_back(ship<Source, RestedSource>(*stream.info, RestedPtr(records)));
  const std::size_t count = sources.size();
  stream.put_made(
      time, make_source(stream.info, *stream.type, std::move(sources), count, nullptr, by_key && count == partitions));
}

}  // namespace sluice::detail
