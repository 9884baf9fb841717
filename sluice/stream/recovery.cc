// Driver: identities, and what an earlier run has left.
#include <algorithm>
#include <cstdio>
#include <set>

#include "sluice/runtime/kill_point.h"
#include "sluice/runtime/planted_bug.h"
#include "sluice/stream/driver.h"
#include "sluice/stream/large_state.h"
#include "sluice/stream/owed.h"

namespace sluice::detail {
namespace {

// How often state is loaded when executors end under it.
constexpr int load_tries = 10;

[[noreturn]] void fail(Code code, const OperatorInfo& info, std::string why) {
  throw Error(code, {.why = std::move(why), .operation = info.name, .where = info.where});
}

}  // namespace

// ---- Identities

// Where data is kept in a checkpoint it must be found again by a later version of the program: by names that the user
// has given, or by what tells one input from the others.
void Driver::set_identities() {
  const bool by_position = options_.name_by_position;
  std::map<std::string, const OperatorInfo*> seen;
  const auto once = [&seen](const std::string& identity, const OperatorInfo& info) {
    const auto [place, is_new] = seen.emplace(identity, &info);
    if (is_new || place->second == &info) return;
    const OperatorInfo& other = *place->second;
    fail(Code::name_not_unique, info,
         "\"" + identity + "\" is also what " + other.where.file_name() + ":" + std::to_string(other.where.line()) +
             " declares");
  };
  for (std::size_t i = 0; i < streams_.size(); ++i) {
    StreamNode& stream = *streams_[i];
    if (!stream.state && stream.kept_as.empty()) continue;
    if (!stream.info->named && by_position) {
      stream.info->name += " " + std::to_string(i);
      stream.info->named = true;
    }
    if (stream.state) {
      if (!stream.info->named) fail(Code::operator_not_named, *stream.info, "its state is kept in checkpoints");
      once("state " + stream.info->name, *stream.info);
    }
    if (stream.kept_as.empty()) continue;
    // Known by its own name, or by that of a window over it.
    stream.kept_as = stream.info->named ? stream.info->name : std::string();
    for (const StreamNodePtr& child : streams_) {
      if (!stream.kept_as.empty()) break;
      const bool reaches = child->reach > Duration{} &&
                           std::find(child->parents.begin(), child->parents.end(), streams_[i]) != child->parents.end();
      if (reaches && child->info->named) stream.kept_as = child->info->name + " (input)";
    }
    if (stream.kept_as.empty()) {
      fail(Code::operator_not_named, *stream.info,
           "a window holds its records over several batches, and has no name either");
    }
    once("kept " + stream.kept_as, *stream.info);
  }
  std::map<std::string, std::size_t> counts;
  const auto identify = [&](std::string& identity, const OperatorInfo& info, const std::string& otherwise) {
    identity = info.named ? info.name : otherwise;
    if (by_position && !info.named) identity += " #" + std::to_string(counts[identity]++);
  };
  for (InputSlot& slot : inputs_) {
    const std::string argument = slot.input->argument();
    identify(slot.identity, *slot.stream->info, slot.stream->info->name + (argument.empty() ? "" : " " + argument));
    once("input " + slot.identity, *slot.stream->info);
  }
  for (StreamOutput& output : outputs_) {
    identify(output.identity, *output.info, output.info->name);
    once("output " + output.identity, *output.info);
  }
}

// ---- At start()

CheckpointDirectoryOptions Driver::directory_options(bool read_only) const {
  CheckpointDirectoryOptions options;
  options.path = options_.checkpoint;
  options.app = options_.app;
  options.hash_seed = engine_->options().hash_seed;
  options.build = build_of_program();
  options.interval = options_.interval;
  options.wal = options_.wal;
  options.keep_batches = options_.keep_batches;
  options.read_only = read_only;
  return options;
}

void Driver::open_directory() {
  whole_base_ = false;
  owed_.clear();
  last_batch_ = resumed_after_ = Time{};
  engine_->runner().track_state();
  directory_ = std::make_unique<CheckpointDirectory>(
      engine_->runtime(), directory_options(options_.dry_run || options_.replay.has_value()));
  const JournalContent& journal = directory_->journal_content();
  if (!journal.empty) zero_ = journal.zero;
  if (options_.replay.has_value()) {
    if (!directory_->choose_manifest_before(*options_.replay) || !journal.batches.contains(*options_.replay)) {
      throw Error(Code::batch_not_recorded, {.why = std::to_string(to_milliseconds(*options_.replay)) + " ms"});
    }
  }
  if (directory_->manifest().has_value()) check_bindings(*directory_->manifest(), journal);
  if (options_.dry_run) {
    const std::string report = report_bindings();
    std::fwrite(report.data(), 1, report.size(), stdout);
    std::fflush(stdout);
    return;
  }
  if (!take_up_state()) load_state(*directory_);
  if (!directory_->manifest().has_value()) open_large_states(nullptr);
  find_states_elsewhere();
  for (const std::string& damage : directory_->damage()) {
    std::fprintf(stderr, "sluice: an older checkpoint is used: %s\n", damage.c_str());
  }
  resumed_after_ = last_batch_;
  for (const auto& [time, batch] : journal.batches) {
    last_batch_ = std::max(last_batch_, time);
    if (batch.complete) resumed_after_ = std::max(resumed_after_, time);
  }
  owed_ = journal.owed;
}

namespace {
bool has_name(const OperatorInfo& info, const std::string& name) {
  return info.name == name || std::find(info.aliases.begin(), info.aliases.end(), name) != info.aliases.end();
}
}  // namespace

// Everything that does not fit is found before anything is changed.
void Driver::check_bindings(const Manifest& manifest, const JournalContent& journal) const {
  for (const CheckpointOperator& saved : manifest.operators) {
    if (std::find(options_.drop_state.begin(), options_.drop_state.end(), saved.name) != options_.drop_state.end()) {
      continue;
    }
    const StreamNode* found = nullptr;
    for (const StreamNodePtr& stream : streams_) {
      const bool kept = saved.schema.kind == kept_kind;
      if (kept ? stream->kept_as == saved.name : stream->state && has_name(*stream->info, saved.name)) {
        found = stream.get();
      }
    }
    if (found == nullptr) {
      // What a window that is gone held is no loss that anyone could mind, as state is.
      if (saved.schema.kind == kept_kind) continue;
      throw Error(Code::state_without_operator, {.why = "\"" + saved.name + "\", " + saved.schema.kind + " of " +
                                                        saved.schema.key + " to " + saved.schema.value});
    }
    if (found->state && saved.schema.kind != kept_kind && !found->state->fits(saved.schema)) {
      const StateSchema& now = found->state->schema;
      fail(Code::state_does_not_fit, *found->info,
           "the checkpoint has " + saved.schema.kind + " of " + saved.schema.key + " to " + saved.schema.value +
               ", the program " + now.kind + " of " + now.key + " to " + now.value);
    }
    const auto index = static_cast<std::size_t>(&saved - manifest.operators.data());
    if (found->state && found->state->large == nullptr && found->state->read_large == nullptr &&
        snapshot_of(manifest, index) != nullptr) {
      fail(Code::state_does_not_fit, *found->info,
           "it lies in RocksDB: say .state(sluice::rocksdb), or .state(sluice::in_memory) to bring it into memory");
    }
  }
  const bool unfinished = !journal.batches.empty() && journal.batches.rbegin()->first > manifest.time;
  if (unfinished && journal.build != build_of_program() && !options_.accept_new_code && !options_.replay) {
    throw Error(Code::other_code, {.why = "batches after " + std::to_string(to_milliseconds(manifest.time)) +
                                          " ms, of which the last is " +
                                          std::to_string(to_milliseconds(journal.batches.rbegin()->first)) + " ms"});
  }
  if (manifest.interval == options_.interval) return;
  // Times of another interval must be times of this one, where anything of them is still needed.
  const auto is_time = [&](Time time, Duration slide) { return (time - manifest.zero) % slide == Duration{}; };
  for (const auto& [time, batch] : journal.batches) {
    if (time > manifest.time && !is_time(time, options_.interval)) {
      throw Error(Code::other_checkpoint, {.why = "batches of an interval of " + to_string(manifest.interval) +
                                                  " came after the newest checkpoint; start once more with it and "
                                                  "stop gracefully"});
    }
  }
  for (const StreamNodePtr& stream : streams_) {
    const bool holds_batches = (stream->state && stream->state->schema.log_length > 0) || stream->reach > Duration{};
    if (!holds_batches) continue;
    const Duration slide = stream->parents.empty() ? options_.interval : stream->parents[0]->slide;
    const bool divides = manifest.interval % slide == Duration{};
    const bool multiple = slide % manifest.interval == Duration{} && stream->state && stream->slide == slide;
    if (!divides && !multiple) {
      fail(Code::other_checkpoint, *stream->info,
           "the batch interval was " + to_string(manifest.interval) + ", and the batches in this window do not fit " +
               to_string(options_.interval));
    }
  }
}

std::string Driver::report_bindings() const {
  std::string text = "checkpoint directory " + options_.checkpoint + "\n";
  const auto& manifest = directory_->manifest();
  if (!manifest.has_value()) return text + "  is empty: everything would begin anew\n";
  text += "  checkpoint of batch " + std::to_string(to_milliseconds(manifest->time)) + " ms, interval " +
          to_string(manifest->interval) + "\n";
  const JournalContent& journal = directory_->journal_content();
  std::size_t again = 0;
  std::size_t state_only = 0;
  for (const auto& [time, batch] : journal.batches) {
    if (time > manifest->time) ++(batch.complete ? state_only : again);
  }
  text += "  " + std::to_string(state_only) + " batches would run again for their state, " + std::to_string(again) +
          " to be finished\n";
  std::set<std::string> bound;
  for (const StreamNodePtr& stream : streams_) {
    if (!stream->state) continue;
    std::string from = "nothing: begins empty";
    for (const CheckpointOperator& saved : manifest->operators) {
      if (saved.schema.kind == kept_kind || !has_name(*stream->info, saved.name)) continue;
      bound.insert(saved.name);
      const bool dropped =
          std::find(options_.drop_state.begin(), options_.drop_state.end(), saved.name) != options_.drop_state.end();
      from = dropped ? "nothing: its state is dropped"
                     : "state \"" + saved.name + "\", " + saved.schema.key + " to " + saved.schema.value;
      if (!dropped && saved.schema.value != stream->state->schema.value) {
        from += ", read as " + stream->state->schema.value;
      }
      if (!dropped && saved.partitions != stream->state->partitions) {
        from +=
            ", " + std::to_string(saved.partitions) + " partitions become " + std::to_string(stream->state->partitions);
      }
    }
    text += "  " + stream->info->name + " takes " + from + "\n";
  }
  for (const CheckpointOperator& saved : manifest->operators) {
    if (saved.schema.kind != kept_kind && !bound.contains(saved.name)) text += "  " + saved.name + " is dropped\n";
  }
  for (const InputSlot& slot : inputs_) {
    text += "  input " + slot.identity +
            (manifest->inputs.contains(slot.identity) ? " goes on where it stood\n" : " is new\n");
  }
  for (const auto& [identity, saved] : manifest->inputs) {
    const bool known =
        std::any_of(inputs_.begin(), inputs_.end(), [&](const InputSlot& slot) { return slot.identity == identity; });
    if (!known) text += "  input " + identity + " is not part of the program any more\n";
  }
  return text;
}

namespace {
// The batch whose outcome an operator's state in a checkpoint is.
std::int64_t version_of(const Manifest& manifest, const StreamNode& stream) {
  for (const CheckpointOperator& saved : manifest.operators) {
    if (saved.schema.kind != kept_kind && has_name(*stream.info, saved.name)) return saved.batch;
  }
  return 0;
}
}  // namespace

// What the stream's state begins with; nullptr: with nothing.
const CheckpointOperator* Driver::taken_up(const Manifest& manifest, const StreamNode& stream) const {
  for (const CheckpointOperator& saved : manifest.operators) {
    const auto& drop = options_.drop_state;
    const bool is_dropped = std::find(drop.begin(), drop.end(), saved.name) != drop.end();
    if (!is_dropped && saved.schema.kind != kept_kind && has_name(*stream.info, saved.name)) return &saved;
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
      fail(Code::no_state_backend, *stream->info, "on a cluster it is kept in memory: leave out .state(...)");
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

namespace {
bool comes_of_state(const StreamNode& stream) {
  return stream.state.has_value() || std::any_of(stream.parents.begin(), stream.parents.end(),
                                                 [](const auto& parent) { return comes_of_state(*parent); });
}
}  // namespace

std::map<std::string, StreamNodePtr> Driver::kept_streams() const {
  std::map<std::string, StreamNodePtr> kept;
  for (const StreamNodePtr& stream : streams_) {
    if (!stream->kept_as.empty()) kept.emplace(stream->kept_as, stream);
  }
  return kept;
}

// Of the checkpoint, past RDDs of windows alone. False when it is damaged.
bool Driver::load_kept_alone() {
  const std::map<std::string, StreamNodePtr> kept = kept_streams();
  if (kept.empty()) return true;
  const Manifest manifest = *directory_->manifest();
  const bool whole = directory_->read_state([] {},
                                            [&](const CheckpointOperator& saved, StateBlock&& block) {
                                              if (saved.schema.kind == kept_kind)
                                                load_kept(kept, manifest, saved, std::move(block));
                                            });
  if (whole) {
    regroup_kept();
  } else {
    for (const auto& [name, stream] : kept) stream->forget_before(Time::max());
  }
  return whole;
}

void Driver::regroup_kept() {
  for (const auto& [name, stream] : kept_streams()) {
    const std::map<Time, NodePtr> made = stream->made();
    for (const auto& [time, node] : made) {
      if (stream->regroup) stream->put_made(time, stream->regroup(*engine_, node));
    }
  }
}

// True when executors that have outlived the driver before have all state as of the last complete batch: then nothing
// is loaded, and no complete batch runs again.
bool Driver::take_up_state() {
  state_as_of_ = {};
  if (!records() || !engine_->runner().has_state_elsewhere()) return false;
  const auto& manifest = directory_->manifest();
  TaskRunner::WantedStates wanted{.epoch = directory_->journal_content().epoch, .batch = {}, .states = {}};
  // Past RDDs of windows are made by running batches again, which must not ask for state.
  const bool can_make_kept = std::none_of(streams_.begin(), streams_.end(), [](const StreamNodePtr& stream) {
    return !stream->kept_as.empty() && comes_of_state(*stream);
  });
  if (manifest.has_value() && can_make_kept && options_.drop_state.empty()) {
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
  }
  if (!engine_->runner().take_up_state(application(), directory_->epoch(), wanted)) return false;
  for (const TaskRunner::WantedState& one : wanted.states) {
    for (std::size_t p = 0; p < one.partitions; ++p) {
      engine_->states().put(one.maker->operation(), p, engine_->runner().make_state(one.maker, p));
    }
  }
  zero_ = manifest->zero;
  last_batch_ = manifest->time;
  whole_base_ = all_changed_ = true;
  if (!load_kept_alone()) return false;
  state_as_of_ = wanted.batch;
  std::fprintf(stderr, "sluice: executors have kept the state as of batch %lld ms\n", to_milliseconds(state_as_of_));
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

// Executors that end meanwhile may take along what they have just been given.
void Driver::load_state(CheckpointDirectory& from) {
  for (int tries = 1;; ++tries) {
    try {
      return try_to_load_state(from);
    } catch (const Error& error) {
      if (tries == load_tries || !is_lost_state(std::current_exception())) throw;
      std::fprintf(stderr, "sluice: state is loaded again: %s\n", error.what());
    }
  }
}

void Driver::try_to_load_state(CheckpointDirectory& from) {
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
        if (saved.schema.kind == kept_kind || !has_name(*stream->info, saved.name)) continue;
        by_name.emplace(saved.name, stream);
        whole_base_ = whole_base_ || stream->info->name != saved.name || stream->state->schema != saved.schema ||
                      stream->state->partitions != saved.partitions;
      }
    }
    whole_base_ = whole_base_ || by_name.size() != with_state.size() ||
                  manifest.operators.size() != with_state.size() + kept.size();
    for (const StreamNodePtr& stream : with_state) {
      states.remove(stream->state->operation);
      if (stream->state->large != nullptr) continue;
      for (std::size_t p = 0; p < stream->state->partitions; ++p) {
        states.put(stream->state->operation, p, engine_->runner().make_state(stream->state->maker, p));
      }
    }
    const auto load = [&](const CheckpointOperator& saved, StateBlock&& block) {
      kill_point("recovery.mid_state");
      if (saved.schema.kind == kept_kind) return load_kept(kept, manifest, saved, std::move(block));
      const auto to = by_name.find(saved.name);
      if (to == by_name.end()) return;
      const StateBinding& state = *to->second->state;
      for (std::size_t p = 0; p < state.partitions; ++p) states.find(state.operation, p)->load(block, saved.schema);
    };
    const bool whole = from.read_state([&] { open_large_states(&manifest); }, load);
    if (!whole) continue;  // with an older checkpoint
    for (const StreamNodePtr& stream : with_state) {
      for (std::size_t p = 0; p < stream->state->partitions; ++p) {
        const auto partition = states.find(stream->state->operation, p);
        partition->loaded(version_of(manifest, *stream));
        if (whole_base_) partition->mark_all();
      }
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
    fail(Code::state_does_not_fit, *stream.info,
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

void Driver::start_outputs() {
  for (const StreamOutput& output : outputs_) {
    if (!output.start) continue;
    OutputStart start{options_.app, output.identity, 0, {}};
    if (start.identity.empty()) start.identity = output.info->name;
    if (directory_ != nullptr) {
      start.epoch = directory_->epoch();
      const auto& sinks = directory_->journal_content().sinks;
      if (const auto said = sinks.find(output.identity); said != sinks.end()) start.said = said->second;
    }
    output.start(start);
  }
}

// What they close is final: the journal has noted all batches.
void Driver::close_outputs() {
  if (records()) directory_->wait_durable();
  for (const StreamOutput& output : outputs_) {
    if (output.close) output.close();
  }
}

// Errors that name no operation get the input's.
void Driver::start_input(InputSlot& slot, InputStart start) {
  try {
    slot.input->start(*engine_, std::move(start));
  } catch (const Error&) {
    rethrow_at(*slot.stream->info);
  }
}

void Driver::start_inputs(std::size_t& started) {
  if (directory_ == nullptr) {
    for (; started < inputs_.size(); ++started) start_input(inputs_[started], {});
    return;
  }
  const JournalContent& journal = directory_->journal_content();
  const auto& manifest = directory_->manifest();
  std::vector<std::string> identities;
  for (const InputSlot& slot : inputs_) identities.push_back(slot.identity);
  std::vector<std::string> outputs;
  for (const StreamOutput& output : outputs_) outputs.push_back(output.identity);
  directory_->begin_run(zero_, identities, std::move(outputs), whole_base_);
  for (; started < inputs_.size(); ++started) {
    InputSlot& slot = inputs_[started];
    InputStart start;
    start.is_kept = true;
    start.wal_directory = directory_->wal_path();
    start.number_before = directory_->first_block_number();
    if (slot.input->receivers() > 0) start.recorder = directory_->recorder(started);
    if (const auto blocks = journal.blocks.find(slot.identity); blocks != journal.blocks.end()) {
      start.blocks = blocks->second;
      const auto allocated = journal.allocated.find(slot.identity);
      for (const auto& [number, block] : start.blocks) {
        if (allocated == journal.allocated.end() || !allocated->second.contains(number)) {
          start.unallocated.push_back(number);
        }
      }
    }
    if (const auto told = journal.receivers.find(slot.identity); told != journal.receivers.end()) {
      start.position = told->second.position;
    }
    if (manifest.has_value()) {
      const auto saved = manifest->inputs.find(slot.identity);
      if (saved != manifest->inputs.end() && !planted_bug("lost-metadata")) {
        start.resumes = true;
        Decoder in(saved->second);
        slot.input->load(in);
        for (const auto& [time, batch] : journal.batches) {
          const auto choice = batch.inputs.find(slot.identity);
          if (time > manifest->time && choice != batch.inputs.end()) slot.input->redo(choice->second);
        }
      }
    }
    start_input(slot, std::move(start));
  }
  last_checkpoint_ = manifest.has_value() ? manifest->time : zero_;
  if (manifest.has_value()) return;
  // Where inputs stand before the first batch is on the disk before anything is made of it.
  checkpoint_now(zero_);
}

// ---- On the stream's thread

Time Driver::recover() {
  if (directory_ == nullptr || directory_->is_new()) return zero_;
  return run_again(*directory_);
}

// What has been recorded since the checkpoint.
Time Driver::run_again(const CheckpointDirectory& recorded) {
  const JournalContent& journal = recorded.journal_content();
  const bool has_kept = !kept_streams().empty();
  Time saved = recorded.manifest()->time;
  if (!has_kept) saved = std::max(saved, state_as_of_);
  kill_point("recovery.start");
  // Inputs that windows reach back into are read again as far back.
  for (InputSlot& slot : inputs_) {
    const Duration back = slot.stream->kept_as.empty() ? slot.stream->asked_back : Duration{};
    for (auto it = journal.batches.upper_bound(saved - back); it != journal.batches.end() && it->first <= saved; ++it) {
      const auto choice = it->second.inputs.find(slot.identity);
      if (choice == it->second.inputs.end()) continue;
      InputInfo told;
      slot.stream->put(*engine_, it->first, slot.input->rdd(*engine_, slot.stream->info, choice->second, told));
    }
  }
  Time last = saved;
  for (auto it = journal.batches.upper_bound(saved); it != journal.batches.end(); ++it) {
    {
      const std::lock_guard lock(mutex_);
      if (stop_requested_ && !graceful_) return last;  // a graceful stop comes after what has been begun
    }
    kill_point("recovery.before_batch");
    Batch batch{.time = it->first, .recorded = &it->second};
    batch.kept_only = it->first <= state_as_of_;
    batch.state_only = it->second.complete && !planted_bug("batch-twice");
    run_batch(batch);
    last = it->first;
  }
  kill_point("recovery.end");
  return last;
}

// What a restart does, but that this process is not to blame and has its inputs still: receivers go on meanwhile.
Time Driver::restore() {
  kill_point("restore.begin");
  if (saving_ != nullptr) {
    directory_->checkpointer().abandon();
    saving_ = nullptr;
  }
  directory_->checkpointer().wait_idle();
  directory_->wait_durable();
  for (const StreamNodePtr& stream : streams_) stream->forget_before(Time::max());
  CheckpointDirectory recorded(engine_->runtime(), directory_options(true));
  const JournalContent& journal = recorded.journal_content();
  load_state(recorded);
  whole_base_ = all_changed_ = true;
  state_as_of_ = {};
  for (InputSlot& slot : inputs_) {
    const auto blocks = journal.blocks.find(slot.identity);
    if (blocks != journal.blocks.end()) slot.input->restore(blocks->second);
  }
  const auto again = std::distance(journal.batches.upper_bound(recorded.manifest()->time), journal.batches.end());
  std::fprintf(stderr, "sluice: state is taken from the checkpoint of batch %lld ms, and %lld batches run again\n",
               to_milliseconds(recorded.manifest()->time), static_cast<long long>(again));
  return run_again(recorded);
}

// Intervals that passed while no driver ran. Returns the last time that needs no batch any more.
Time Driver::run_missed(Time last) {
  const Time now = engine_->runtime().clock().now();
  const Time due = time_after(now) - options_.interval;
  const Time next = time_after(last);
  const bool was_down = directory_ != nullptr && !directory_->is_new();
  if (!was_down || due <= next) return last;
  if (options_.missed == MissedBatches::run) {
    not_before_ = now;
    return last;
  }
  // A window that is slid every so many batches slides once more over what it has; so it loses nothing when the time
  // up to now is left out. These batches have no input: what has come in since goes to the next one.
  Duration slide = options_.interval;
  for (const StreamNodePtr& stream : streams_) slide = std::max(slide, stream->slide);
  if (slide == options_.interval) return due - options_.interval;
  const Time until = std::min(last + slide, due - options_.interval);
  for (Time time = next; time <= until; time += options_.interval) {
    {
      const std::lock_guard lock(mutex_);
      if (stop_requested_ && !graceful_) return time - options_.interval;
    }
    run_batch({.time = time, .empty = true});
  }
  return due - options_.interval;
}

// State as it was before the batch, then the batch with the outputs that print.
void Driver::run_replay() {
  const JournalContent& journal = directory_->journal_content();
  for (StreamOutput& output : outputs_) {
    if (output.internal) continue;
    output.function = [show = output.show](const NodePtr& node, const OutputBatch& batch) {
      show(node, batch.time);
      return std::string();
    };
  }
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    InputStart start;
    start.wal_directory = directory_->wal_path();
    const auto blocks = journal.blocks.find(inputs_[i].identity);
    if (blocks != journal.blocks.end()) start.blocks = blocks->second;
    inputs_[i].input->start_replay(*engine_, std::move(start));
  }
  for (const auto& [time, batch] : journal.batches) {
    if (time > *options_.replay) break;
    RecordedBatch again = batch;
    again.outputs.clear();
    const Time saved = directory_->manifest()->time;
    if (time > saved) {
      run_batch({.time = time, .recorded = &again, .state_only = time < *options_.replay});
    } else {
      for (InputSlot& slot : inputs_) {
        if (time <= saved - slot.stream->asked_back || !slot.stream->kept_as.empty()) continue;
        InputInfo told;
        slot.stream->put(*engine_, time,
                         slot.input->rdd(*engine_, slot.stream->info, again.inputs[slot.identity], told));
      }
    }
  }
}

// ---- Owed outputs

// Batches run in order and each ends with its output done or owed, else the stream stops; and what was recorded of
// earlier ones is durable before the output is given this one (job_options). So only what is owed can come again.
OutputBatch Driver::batch_of(const StreamOutput& output, Time time) const {
  OutputBatch batch{time, time};
  for (const OwedOutput& owed : owed_) {
    if (owed.output == output.identity) batch.settled = std::min(batch.settled, owed.time);
  }
  return batch;
}

bool Driver::owe(const StreamOutput& output, const NodePtr& node, Time time) {
  if (options_.failed_output != FailedOutput::go_on || directory_ == nullptr || output.internal || node == nullptr ||
      cancelled_) {
    return false;
  }
  // If the records themselves cannot be made, nothing can be delivered later either.
  JobResult result = std::move(engine_->run({node}, {time, &cancelled_, {}})[0]);
  if (result.error != nullptr) return false;
  const std::string bytes = encode_owed(node->type->schema(), result.partitions);
  std::uint64_t owed_bytes = bytes.size();
  FileSystem& files = engine_->runtime().files();
  files.make_directories(directory_->owed_path());
  for (const FileInfo& file : files.list(directory_->owed_path()).value_or(std::vector<FileInfo>{})) {
    owed_bytes += file.size_bytes;
  }
  if (owed_bytes > options_.owed_bytes_max) return false;
  if (!owed_.empty() && time - owed_.front().time > options_.owed_age_max) return false;
  kill_point("driver.before_owed");
  files.publish(directory_->owed_path() + "/" + owed_file_name({time, output.identity}), bytes);
  const auto index = static_cast<std::size_t>(&output - outputs_.data());
  directory_->journal().output(time, index, false, {});
  owed_.push_back({time, output.identity});
  std::fprintf(stderr, "sluice: output \"%s\" of batch %lld ms has failed and is owed\n", output.identity.c_str(),
               to_milliseconds(time));
  return true;
}

// One try for the oldest of each output that owes: it is likely to fail as the others would.
void Driver::deliver_owed() {
  const Time now = engine_->runtime().clock().now();
  if (owed_.empty() || now < owed_not_before_) return;
  FileSystem& files = engine_->runtime().files();
  std::set<std::string> failed;
  for (const OwedOutput& owed : std::vector<OwedOutput>(owed_)) {
    const auto output = std::find_if(outputs_.begin(), outputs_.end(), [&](const StreamOutput& each) {
      return !each.internal && each.identity == owed.output;
    });
    if (output == outputs_.end() || failed.contains(owed.output)) continue;
    const std::string path = directory_->owed_path() + "/" + owed_file_name(owed);
    const OwedRecords records = OwedRecords::read(files, path);
    const TypeOps& type = *output->stream->type;
    if (records.schema() != type.schema()) {
      fail(Code::state_does_not_fit, *output->info,
           "it owes records of " + records.schema() + ", and has records of " + type.schema());
    }
    std::vector<Shipped<Source>> sources;
    for (RestedPtr& rested : records.partitions(type)) {
      sources.push_back(ship<Source, RestedSource>(*output->info, std::move(rested)));
    }
    const std::size_t partitions = sources.size();
    const NodePtr node = make_source(output->info, type, std::move(sources), partitions);
    std::string said;
    const auto deliver = [&] { said = output->function(node, batch_of(*output, owed.time)); };
    if (Turns(*engine_, job_options(owed.time)).run({deliver})[0] != nullptr) {
      failed.insert(owed.output);
      continue;
    }
    kill_point("driver.before_delivered_record");
    directory_->wait_durable();
    directory_->journal().delivered(owed.time, owed.output, said);
    // Its file goes when the journal says durably that it is delivered.
    directory_->wait_durable();
    std::erase(owed_, owed);
    files.remove(path);
  }
  owed_not_before_ = now + options_.output_retry_pause * 10;
}

}  // namespace sluice::detail
