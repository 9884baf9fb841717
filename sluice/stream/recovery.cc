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
    fail_at(info, Code::name_not_unique,
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
      if (!stream.info->named) fail_at(*stream.info, Code::operator_not_named, "its state is kept in checkpoints");
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
      fail_at(*stream.info, Code::operator_not_named,
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

// Everything that does not fit is found before anything is changed.
void Driver::check_bindings(const Manifest& manifest, const JournalContent& journal) const {
  for (const CheckpointOperator& saved : manifest.operators) {
    if (std::find(options_.drop_state.begin(), options_.drop_state.end(), saved.name) != options_.drop_state.end()) {
      continue;
    }
    const StreamNode* found = nullptr;
    for (const StreamNodePtr& stream : streams_) {
      const bool kept = saved.schema.kind == kept_kind;
      if (kept ? stream->kept_as == saved.name : stream->state && stream->info->is_called(saved.name)) {
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
      fail_at(*found->info, Code::state_does_not_fit,
              "the checkpoint has " + saved.schema.kind + " of " + saved.schema.key + " to " + saved.schema.value +
                  ", the program " + now.kind + " of " + now.key + " to " + now.value);
    }
    const auto index = static_cast<std::size_t>(&saved - manifest.operators.data());
    if (found->state && found->state->large == nullptr && found->state->read_large == nullptr &&
        snapshot_of(manifest, index) != nullptr) {
      fail_at(*found->info, Code::state_does_not_fit,
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
      fail_at(*stream->info, Code::other_checkpoint,
              "the batch interval was " + to_string(manifest.interval) +
                  ", and the batches in this window do not fit " + to_string(options_.interval));
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
      if (saved.schema.kind == kept_kind || !stream->info->is_called(saved.name)) continue;
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
  if (!has_kept && missing_.empty()) saved = std::max(saved, state_as_of_);
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
    batch.missing_only = it->first <= state_as_of_;
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
  missing_.clear();
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
      fail_at(*output->info, Code::state_does_not_fit,
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
