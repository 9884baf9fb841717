#include "sluice/stream/journal.h"

#include <algorithm>
#include <utility>

#include "sluice/core/codec.h"
#include "sluice/runtime/planted_bug.h"
#include "sluice/stream/framed.h"
#include "sluice/stream/log_format.h"

namespace sluice::detail {
namespace {

enum class Event : std::uint8_t { run = 1, block = 2, batch = 3, output = 4, delivered = 5, complete = 6 };

// Records of kinds that have not changed since are of version 1. Version 2 of `delivered` says what its sink must
// remember, of `block` where it lies on executors.
constexpr std::uint8_t newest_version(Event kind) { return kind == Event::delivered || kind == Event::block ? 2 : 1; }

// A new segment is begun when the present one has this size, so that old ones can go.
constexpr std::uint64_t segment_bytes = 1 << 20;

Encoder begin(Event kind) {
  Encoder out;
  out.u8(static_cast<std::uint8_t>(kind));
  out.u8(newest_version(kind));
  return out;
}

std::uint64_t to_number(Time time) { return static_cast<std::uint64_t>(time.time_since_epoch().count()); }
Time read_time(Decoder& in) { return Time(Duration(static_cast<std::int64_t>(in.u64()))); }

/// Takes in one record after the other.
class Reader {
 public:
  explicit Reader(JournalContent& content) : content_(content) {}

  void take(std::string_view record) {
    Decoder in(record);
    const auto kind = static_cast<Event>(in.u8());
    const std::uint8_t version = in.u8();
    if (version < 1 || version > newest_version(kind)) {
      throw Error(Code::other_version, {.why = "this is a record of the journal of version " + std::to_string(version) +
                                               "; this program knows version " + std::to_string(newest_version(kind))});
    }
    if (content_.empty && kind != Event::run) in.fail_corrupt("a journal does not begin with a run");
    content_.empty = false;
    switch (kind) {
      case Event::run: take_run(in); break;
      case Event::block: take_block(in, version); break;
      case Event::batch: take_batch(in); break;
      case Event::output: take_output(in); break;
      case Event::delivered: take_delivered(in, version); break;
      case Event::complete: batch_of(in, read_time(in)).complete = true; break;
      default: in.fail_corrupt("a record of the journal is of no known kind");
    }
    in.expect_end();
  }

 private:
  void take_run(Decoder& in) {
    content_.epoch = in.u64();
    content_.build = in.u64();
    content_.zero = read_time(in);
    content_.interval = Duration(static_cast<std::int64_t>(in.u64()));
    inputs_ = decode<std::vector<std::string>>(in);
    outputs_ = decode<std::vector<std::string>>(in);
    // What was said in segments that may have gone.
    content_.owed.clear();
    for (std::size_t left = in.count(); left > 0; --left) {
      const Time time = read_time(in);
      content_.owed.push_back({time, std::string(in.text())});
    }
    for (std::size_t left = in.count(); left > 0; --left) {
      std::string name(in.text());
      content_.sinks[std::move(name)] = std::string(in.text());
    }
    for (std::size_t left = in.count(); left > 0; --left) {
      const std::string name(in.text());
      JournalContent::Told& told = content_.receivers[name];
      told.number = in.varint();
      told.position = std::string(in.text());
    }
    if (content_.interval <= Duration{}) in.fail_corrupt("a run has no interval");
  }

  void take_block(Decoder& in, std::uint8_t version) {
    const std::string& input = name_of(in, inputs_);
    RecordedBlock block;
    block.number = in.varint();
    block.bytes = in.varint();
    block.records = in.varint();
    block.stored = read_time(in);
    block.handle = decode<std::optional<LogHandle>>(in);
    block.position = std::string(in.text());
    if (version > 1) block.owner = in.varint();
    content_.blocks[input].emplace(block.number, std::move(block));
  }

  void take_batch(Decoder& in) {
    const Time time = read_time(in);
    RecordedBatch& batch = content_.batches[time];
    batch = {};
    batch.time = time;
    batch.build = content_.build;
    for (const std::string& input : inputs_) {
      batch.inputs[input] = std::string(in.text());
      for (std::size_t left = in.count(); left > 0; --left) content_.allocated[input][in.varint()] = time;
    }
  }

  void take_output(Decoder& in) {
    const Time time = read_time(in);
    const std::string& output = name_of(in, outputs_);
    const bool done = decode<bool>(in);
    RecordedBatch& batch = batch_of(in, time);
    batch.build = content_.build;
    batch.outputs[output] = done;
    if (!done) content_.owed.push_back({time, output});
    if (const std::string_view sink = in.text(); !sink.empty()) content_.sinks[output] = sink;
  }

  void take_delivered(Decoder& in, std::uint8_t version) {
    const Time time = read_time(in);
    const std::string output(in.text());
    std::erase(content_.owed, OwedOutput{time, output});
    if (version == 1) return;
    if (const std::string_view sink = in.text(); !sink.empty()) content_.sinks[output] = sink;
  }

  const std::string& name_of(Decoder& in, const std::vector<std::string>& names) {
    const std::uint64_t index = in.varint();
    if (index >= names.size()) in.fail_corrupt("a record of the journal names something its run does not have");
    return names[index];
  }
  // The record of the batch may lie in a segment that has been removed.
  RecordedBatch& batch_of(Decoder&, Time time) {
    RecordedBatch& batch = content_.batches[time];
    batch.time = time;
    return batch;
  }

  JournalContent& content_;
  std::vector<std::string> inputs_;
  std::vector<std::string> outputs_;
};

}  // namespace

JournalContent read_journal(FileSystem& files, const std::string& directory) {
  JournalContent content;
  Reader reader(content);
  content.log = read_log(files, directory, 0, [&](const LogHandle& handle, std::string_view record) {
    ++content.records;
    const auto take = [&] { reader.take(record); };
    naming_file(
        log_segment_path(directory, {handle.epoch, handle.segment}) + " at byte " + std::to_string(handle.offset),
        take);
  });
  return content;
}

JournalContent::Told JournalContent::last_told(const std::string& input) const {
  Told told;
  if (const auto before = receivers.find(input); before != receivers.end()) told = before->second;
  if (const auto known = blocks.find(input); known != blocks.end()) {
    for (const auto& [number, block] : known->second) {
      if (number >= told.number && !block.position.empty()) told = {number, block.position};
    }
  }
  return told;
}

Journal::Journal(Runtime& runtime, const std::string& directory, const JournalContent& content, RunRecord run,
                 std::function<bool()> fenced, std::function<void()> wait_for_blocks)
    : run_(std::move(run)),
      wait_for_blocks_(std::move(wait_for_blocks)),
      log_(runtime, directory, content.log,
           // Segments end when this class says so: each begins with a run record.
           {.epoch = run_.epoch,
            .segment_bytes = ~std::uint64_t{0},
            .fenced = std::move(fenced),
            .pending_bytes_max = ~std::uint64_t{0},
            .name = "journal"}),
      unallocated_(run_.inputs.size()),
      sinks_(content.sinks) {
  owed_.insert(content.owed.begin(), content.owed.end());
  for (const auto& [name, told] : content.receivers) receivers_[name] = {told, 0};
  for (const auto& [name, blocks] : content.blocks) receivers_[name] = {content.last_told(name), 0};
  // Everything recorded before lies in the segments before this run's first one.
  const std::uint64_t before = log_.segment() == 0 ? 0 : log_.segment() - 1;
  const auto wal_segment_of = [](const RecordedBlock& block) {
    return block.handle ? block.handle->segment : ~std::uint64_t{0};
  };
  for (const auto& [time, batch] : content.batches) {
    Alive& alive = batches_[time];
    alive.segment = content.log.segments.empty() ? before : content.log.segments.front().number;
  }
  for (const auto& [input, blocks] : content.blocks) {
    const auto index = std::find(run_.inputs.begin(), run_.inputs.end(), input);
    const auto allocated = content.allocated.find(input);
    for (const auto& [number, block] : blocks) {
      if (allocated != content.allocated.end()) {
        if (const auto batch = allocated->second.find(number); batch != allocated->second.end()) {
          Alive& alive = batches_[batch->second];
          alive.wal_segment = std::min(alive.wal_segment, wal_segment_of(block));
          continue;
        }
      }
      if (index == run_.inputs.end()) continue;
      unallocated_[static_cast<std::size_t>(index - run_.inputs.begin())][number] = {
          content.log.segments.empty() ? before : content.log.segments.front().number, wal_segment_of(block)};
    }
  }
  append_run();
}

LogPosition Journal::append(const Encoder& record) {
  const std::lock_guard lock(mutex_);
  return append_locked(record);
}

// The mutex is held: this log's append does not wait.
LogPosition Journal::append_locked(const Encoder& record) {
  const LogPosition at = log_.append(record.view());
  bytes_in_segment_ += record.size();
  return at;
}

// What must be known of earlier segments is said again, so that they can go.
void Journal::append_run() {
  Encoder out = begin(Event::run);
  out.u64(run_.epoch);
  out.u64(run_.build);
  out.u64(to_number(run_.zero));
  out.u64(static_cast<std::uint64_t>(run_.interval.count()));
  encode(run_.inputs, out);
  encode(run_.outputs, out);
  std::map<std::string, ToldIn> receivers;
  {
    const std::lock_guard lock(mutex_);
    out.varint(owed_.size());
    for (const OwedOutput& owed : owed_) {
      out.u64(to_number(owed.time));
      out.text(owed.output);
    }
    out.varint(sinks_.size());
    for (const auto& [name, said] : sinks_) {
      out.text(name);
      out.text(said);
    }
    receivers = receivers_;
    bytes_in_segment_ = 0;
  }
  out.varint(receivers.size());
  for (const auto& [name, told] : receivers) {
    out.text(name);
    out.varint(told.number);
    out.text(told.position);
  }
  // A position is only good with its block, and here it is said without it.
  wait_for_blocks_();
  const LogPosition at = log_.append_in_new_segment(out.view());
  const std::lock_guard lock(mutex_);
  for (const auto& [name, told] : receivers) {
    ToldIn& now = receivers_[name];
    if (now.number == told.number) now.segment = at.handle.segment;
  }
}

LogPosition Journal::block(std::size_t input, const RecordedBlock& block) {
  Encoder out = begin(Event::block);
  out.varint(input);
  out.varint(block.number);
  out.varint(block.bytes);
  out.varint(block.records);
  out.u64(to_number(block.stored));
  encode(block.handle, out);
  out.text(block.position);
  out.varint(block.owner);
  // In one step: `forget` must not take the segment for one in which nothing is.
  const std::lock_guard lock(mutex_);
  const LogPosition at = append_locked(out);
  unallocated_[input][block.number] = {at.handle.segment, block.handle ? block.handle->segment : ~std::uint64_t{0}};
  ToldIn& told = receivers_[run_.inputs[input]];
  if (!block.position.empty() && block.number >= told.number)
    told = {{block.number, block.position}, at.handle.segment};
  return at;
}

LogPosition Journal::batch(Time time, const std::vector<std::string>& choices,
                           const std::vector<std::vector<std::uint64_t>>& blocks) {
  Encoder out = begin(Event::batch);
  out.u64(to_number(time));
  for (std::size_t i = 0; i < choices.size(); ++i) {
    out.text(choices[i]);
    const std::size_t named = planted_bug("blocks-not-named") ? 0 : blocks[i].size();
    out.varint(named);
    for (std::size_t b = 0; b < named; ++b) out.varint(blocks[i][b]);
  }
  const LogPosition at = append(out);
  const std::lock_guard lock(mutex_);
  Alive alive{at.handle.segment};
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    for (const std::uint64_t number : blocks[i]) {
      const auto block = unallocated_[i].find(number);
      if (block == unallocated_[i].end()) continue;
      alive.segment = std::min(alive.segment, block->second.segment);
      alive.wal_segment = std::min(alive.wal_segment, block->second.wal_segment);
      unallocated_[i].erase(block);
    }
  }
  batches_[time] = alive;
  return at;
}

LogPosition Journal::output(Time time, std::size_t output, bool done, std::string_view sink) {
  Encoder out = begin(Event::output);
  out.u64(to_number(time));
  out.varint(output);
  out.u8(done ? 1 : 0);
  out.text(sink);
  const LogPosition at = append(out);
  const std::lock_guard lock(mutex_);
  if (!done) owed_.insert({time, run_.outputs[output]});
  if (!sink.empty()) sinks_[run_.outputs[output]] = sink;
  return at;
}

LogPosition Journal::delivered(Time time, const std::string& output, std::string_view sink) {
  Encoder out = begin(Event::delivered);
  out.u64(to_number(time));
  out.text(output);
  out.text(sink);
  const LogPosition at = append(out);
  const std::lock_guard lock(mutex_);
  owed_.erase({time, output});
  if (!sink.empty()) sinks_[output] = sink;
  return at;
}

LogPosition Journal::complete(Time time) {
  Encoder out = begin(Event::complete);
  out.u64(to_number(time));
  return append(out);
}

void Journal::forget(Time time) {
  bool roll = false;
  std::uint64_t needed = 0;
  {
    const std::lock_guard lock(mutex_);
    batches_.erase(batches_.begin(), batches_.upper_bound(time));
    roll = bytes_in_segment_ >= segment_bytes;
    needed = log_.segment();
    for (const auto& [batch, alive] : batches_) needed = std::min(needed, alive.segment);
    for (const auto& blocks : unallocated_) {
      for (const auto& [number, alive] : blocks) needed = std::min(needed, alive.segment);
    }
    for (const auto& [name, told] : receivers_) needed = std::min(needed, told.segment);
  }
  log_.remove_before(needed);
  if (roll) append_run();
}

std::uint64_t Journal::first_wal_segment() {
  const std::lock_guard lock(mutex_);
  std::uint64_t first = ~std::uint64_t{0};
  for (const auto& [batch, alive] : batches_) first = std::min(first, alive.wal_segment);
  for (const auto& blocks : unallocated_) {
    for (const auto& [number, alive] : blocks) first = std::min(first, alive.wal_segment);
  }
  return first;
}

}  // namespace sluice::detail
