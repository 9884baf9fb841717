// Writing logs. Callers put records into runs, one a segment; the log's thread takes all runs there are and makes each
// durable: write, sync, tell, commit.
#include "sluice/stream/log.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <mutex>
#include <set>
#include <utility>

#include "sluice/runtime/checksum.h"
#include "sluice/runtime/errors.h"
#include "sluice/runtime/kill_point.h"
#include "sluice/stream/log_format.h"

namespace sluice::detail {
namespace {

/// A piece of a record that was not copied: it belongs at `at` of the run's bytes.
struct Body {
  std::size_t header_at = 0;
  std::size_t at = 0;
  MemoryBlock block;
};

/// Records of one segment that wait for the log's thread. They lie one after the other as in the file, but for the
/// bodies, and their checksums are still 0.
struct Run {
  std::uint64_t segment = 0;
  /// In the file.
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  /// `LogPosition::end` of the last one.
  std::uint64_t log_end = 0;
  std::string bytes;
  std::vector<Body> bodies;
};

// Fills in the checksums; returns that of the group.
std::uint32_t fill_checksums(Run& run, std::uint64_t epoch) {
  std::uint64_t offset = run.begin;
  std::uint32_t group_checksum = 0;
  auto body = run.bodies.begin();
  for (std::size_t at = 0; at < run.bytes.size();) {
    char* const header = run.bytes.data() + at;
    std::uint32_t length = 0;
    std::memcpy(&length, header, sizeof length);
    const bool has_body = body != run.bodies.end() && body->header_at == at;
    const std::size_t copied = length - (has_body ? body->block.bytes.size() : 0);
    std::uint32_t checksum = log_record_checksum({epoch, run.segment}, offset, length);
    checksum = crc32c({header + log_record_header_bytes, copied}, checksum);
    if (has_body) checksum = crc32c((body++)->block.bytes, checksum);
    std::memcpy(header + sizeof length, &checksum, sizeof checksum);
    group_checksum = crc32c({header, log_record_header_bytes}, group_checksum);
    at += log_record_header_bytes + copied;
    offset += log_record_header_bytes + length;
  }
  SLUICE_ASSERT(offset == run.end);
  return group_checksum;
}

// Its name, too: a chain whose older end is lost would be refused.
void sync_segment(FileSystem& files, const std::string& directory, const std::string& path) {
  const std::unique_ptr<File> segment = files.open(path);
  if (!segment) throw Error(Code::truncated_data, {.why = path + " is missing: the log was to go on after it"});
  segment->sync();
  files.sync_directory(directory);
}

}  // namespace

void sync_log(FileSystem& files, const std::string& directory, const LogContent& content) {
  if (!content.segments.empty()) sync_segment(files, directory, content.segments.back().path);
}

// Threads: `mutex` guards the members up to `asleep`; the rest is constant, or the log's thread's own.
struct Log::State {
  State(Runtime& runtime_, std::string directory_, LogContent content, LogOptions options_);

  LogPosition append(std::string_view head, std::string_view tail, const MemoryBlock* kept,
                     bool in_new_segment = false);
  void wait_durable(std::uint64_t end);
  void throw_if_failed() const;
  void wake();
  void begin_next_segment();

  void run();
  void fail();
  void write_runs(std::deque<Run> runs);
  void check_fenced();
  void begin_log();
  void begin_segment(std::uint64_t number);
  void write(const Run& run);
  void tell(Run& run);
  void commit(const Run& run, std::uint32_t group_checksum);
  std::uint64_t removal_due() const;
  void remove_segments(std::uint64_t below);

  Runtime& runtime;
  const std::string directory;
  const LogOptions options;
  const std::unique_ptr<Condition> work;
  /// Waiters for durability and for room.
  const std::unique_ptr<Condition> progress;

  std::mutex mutex;
  std::deque<Run> runs;
  /// Appended and not durable.
  std::uint64_t pending_bytes = 0;
  std::uint64_t end = 0;
  std::uint64_t durable_end = 0;
  /// Where the next record goes.
  std::uint64_t next_segment;
  std::uint64_t next_offset = log_segment_header_bytes;
  /// What made the log fail. Kept in parts, since each caller throws an exception of its own.
  bool failed = false;
  Code failure_code = Code::io_failed;
  ErrorDetails failure;
  std::function<void()> told;
  std::uint64_t remove_below = 0;
  std::uint64_t removed_below = 0;
  std::uint64_t segments_removed = 0;
  /// Memory of a run that has been written, for the next one.
  std::string spare;
  bool ending = false;
  bool asleep = false;

  /// The chain as the log found it.
  std::set<LogSegmentId> old_chain;
  std::string last_old_path;
  /// The newest segment that is durable, and up to where: what the next one is linked to.
  LogLink newest;
  /// This owner's segment that is written to.
  std::unique_ptr<File> file;
  std::uint64_t file_number = 0;
  std::unique_ptr<File> commit_file;
  std::uint64_t commit_count = 0;

  std::unique_ptr<Thread> thread;
};

Log::State::State(Runtime& runtime_, std::string directory_, LogContent content, LogOptions options_)
    : runtime(runtime_),
      directory(std::move(directory_)),
      options(std::move(options_)),
      work(runtime.condition()),
      progress(runtime.condition()),
      next_segment(content.next_segment) {
  for (const LogSegment& segment : content.segments) old_chain.insert({segment.epoch, segment.number});
  if (!content.segments.empty()) {
    LogSegment& last = content.segments.back();
    newest = {{last.epoch, last.number}, last.end};
    last_old_path = std::move(last.path);
  }
  if (options.epoch <= newest.segment.epoch) {
    throw Error(Code::bad_argument,
                {.why = "a log's epoch must be greater than that of its last owner, " +
                        std::to_string(newest.segment.epoch) + "; it is " + std::to_string(options.epoch)});
  }
  SLUICE_ASSERT(next_segment > newest.segment.number);
}

// ---- called by all threads ----

LogPosition Log::State::append(std::string_view head, std::string_view tail, const MemoryBlock* kept,
                               bool in_new_segment) {
  const std::uint64_t kept_bytes = kept != nullptr ? kept->bytes.size() : 0;
  const std::uint64_t length = head.size() + tail.size() + kept_bytes;
  if (length == 0) throw Error(Code::bad_argument, {.why = "a record of a log has at least one byte"});
  if (length > log_record_bytes_max) {
    throw Error(Code::over_limit, {.why = "a record of a log has at most " + std::to_string(log_record_bytes_max) +
                                          " bytes; this one has " + std::to_string(length)});
  }
  std::unique_lock lock(mutex);
  while (!failed && pending_bytes > options.pending_bytes_max) progress->wait(lock);
  throw_if_failed();
  if (in_new_segment) begin_next_segment();

  if (runs.empty() || runs.back().segment != next_segment) {
    runs.push_back({.segment = next_segment, .begin = next_offset});
    runs.back().bytes = std::exchange(spare, {});
  }
  Run& run = runs.back();
  const std::size_t header_at = run.bytes.size();
  const std::uint32_t header[2] = {static_cast<std::uint32_t>(length), 0};
  static_assert(sizeof header == log_record_header_bytes);
  run.bytes.append(reinterpret_cast<const char*>(header), sizeof header).append(head).append(tail);
  if (kept != nullptr) run.bodies.push_back({header_at, run.bytes.size(), *kept});
  const LogHandle handle{options.epoch, next_segment, next_offset, header[0]};
  const std::uint64_t bytes = log_record_header_bytes + length;
  pending_bytes += bytes;
  run.end = next_offset += bytes;
  run.log_end = end += bytes;
  if (next_offset >= options.segment_bytes) begin_next_segment();
  wake();
  return {run.log_end, handle};
}

void Log::State::wait_durable(std::uint64_t wanted) {
  std::unique_lock lock(mutex);
  SLUICE_ASSERT(wanted <= end);
  while (durable_end < wanted) {
    throw_if_failed();
    progress->wait(lock);
  }
}

void Log::State::throw_if_failed() const {
  if (failed) throw Error(failure_code, failure);
}

void Log::State::wake() {
  if (std::exchange(asleep, false)) work->notify_one();
}

void Log::State::begin_next_segment() {
  // One without records is still the next.
  if (next_offset == log_segment_header_bytes) return;
  ++next_segment;
  next_offset = log_segment_header_bytes;
}

// ---- the log's thread ----

void Log::State::run() {
  std::unique_lock lock(mutex);
  while (true) {
    const std::uint64_t below = removal_due();
    try {
      // Removals first: in a log that is always busy they would never have their turn.
      if (below != 0) {
        lock.unlock();
        remove_segments(below);
      } else if (!runs.empty()) {
        std::deque<Run> taken = std::exchange(runs, {});
        lock.unlock();
        write_runs(std::move(taken));
      } else if (ending) {
        return;
      } else {
        asleep = true;
        work->wait(lock);
        continue;
      }
    } catch (...) {
      fail();
      return;
    }
    lock.lock();
  }
}

// Called while the exception is handled.
void Log::State::fail() {
  std::function<void()> tell_of_it;
  std::deque<Run> dropped;
  {
    const std::lock_guard lock(mutex);
    try {
      throw;
    } catch (const Error& error) {
      failure_code = error.code();
      failure = error.details();
    } catch (...) {
      failure.why = current_exception_text();
    }
    failed = true;
    dropped.swap(runs);
    tell_of_it = told;
  }
  progress->notify_all();
  if (tell_of_it) tell_of_it();
}

void Log::State::write_runs(std::deque<Run> taken) {
  for (; !taken.empty(); taken.pop_front()) {
    Run& run = taken.front();
    check_fenced();
    if (!commit_file) begin_log();
    const bool begins = file_number != run.segment;
    if (begins) begin_segment(run.segment);
    kill_point(options.name, ".before_write");
    const std::uint32_t group_checksum = fill_checksums(run, options.epoch);
    write(run);
    kill_point(options.name, ".before_sync");
    file->sync();
    if (begins) runtime.files().sync_directory(directory);
    kill_point(options.name, ".after_sync");
    check_fenced();
    newest = {{options.epoch, run.segment}, run.end};
    tell(run);
    kill_point(options.name, ".before_commit");
    commit(run, group_checksum);
    kill_point(options.name, ".after_commit");
  }
}

void Log::State::check_fenced() {
  if (!options.fenced || !options.fenced()) return;
  throw Error(Code::fenced, {.why = "the owner of the log " + directory + " in epoch " + std::to_string(options.epoch) +
                                    " is no longer its owner"});
}

void Log::State::begin_log() {
  FileSystem& files = runtime.files();
  files.make_directories(directory);
  if (!last_old_path.empty()) sync_segment(files, directory, last_old_path);  // L6
  const std::string path = log_commit_path(directory, options.epoch);
  if (files.stat(path)) {
    throw Error(Code::bad_argument, {.why = path + " is there: another owner has had this epoch"});
  }
  commit_file = files.create(path);
  // So that what follows overwrites blocks that are there, which costs a sync less than a new one.
  commit_file->write_at(0, std::string(log_commit_file_bytes, '\0'));
}

// The file has its name durable before anything in it is told to be.
void Log::State::begin_segment(std::uint64_t number) {
  kill_point(options.name, ".rotate");
  const LogSegmentId id{options.epoch, number};
  file = runtime.files().create(log_segment_path(directory, id));
  file_number = number;
  file->append(encode_log_segment_header(id, newest));
}

void Log::State::write(const Run& run) {
  // A test that kills in the middle needs two writes where one does.
  std::uint64_t until_cut = kill_points_armed() ? (run.end - run.begin) / 2 : run.end;
  const auto put = [&](std::string_view piece) {
    if (until_cut < piece.size()) {
      file->append(piece.substr(0, static_cast<std::size_t>(until_cut)));
      kill_point(options.name, ".mid_record");
      piece.remove_prefix(static_cast<std::size_t>(until_cut));
      until_cut = run.end;
    }
    until_cut -= piece.size();
    if (!piece.empty()) file->append(piece);
  };
  std::size_t at = 0;
  for (const Body& body : run.bodies) {
    put(std::string_view(run.bytes).substr(at, body.at - at));
    put(body.block.bytes);
    at = body.at;
  }
  put(std::string_view(run.bytes).substr(at));
}

void Log::State::tell(Run& run) {
  // What the owners of bodies do when they are let go is not this lock's business.
  run.bodies.clear();
  constexpr std::size_t spare_bytes_max = 4 << 20;
  std::function<void()> tell_of_it;
  {
    const std::lock_guard lock(mutex);
    durable_end = run.log_end;
    pending_bytes -= run.end - run.begin;
    if (run.bytes.capacity() > spare.capacity() && run.bytes.capacity() <= spare_bytes_max) {
      run.bytes.clear();
      spare.swap(run.bytes);
    }
    tell_of_it = told;
  }
  progress->notify_all();
  if (tell_of_it) tell_of_it();
}

// L2. The next group is not written before this returns.
void Log::State::commit(const Run& run, std::uint32_t group_checksum) {
  const std::uint64_t slot = commit_count++ % log_slot_count;
  commit_file->write_at(slot * log_slot_stride, encode_log_commit({.sequence = commit_count,
                                                                   .segment = {options.epoch, run.segment},
                                                                   .begin = run.begin,
                                                                   .end = run.end,
                                                                   .group_checksum = group_checksum}));
  commit_file->sync();
}

// Segments before which are to be removed; 0: nothing to do.
std::uint64_t Log::State::removal_due() const {
  const std::uint64_t below = std::min(remove_below, newest.segment.number);
  return below > removed_below ? below : 0;
}

void Log::State::remove_segments(std::uint64_t below) {
  check_fenced();
  FileSystem& files = runtime.files();
  // First it is noted: a segment that is missing without that is damage.
  files.create(log_removal_path(directory, below));
  files.sync_directory(directory);
  kill_point(options.name, ".before_remove");
  const auto entries = files.list(directory).value_or(std::vector<FileInfo>{});
  std::set<std::uint64_t> epochs_left;
  for (const FileInfo& entry : entries) {
    const std::optional<LogSegmentId> id = parse_log_segment_path(entry.path);
    if (!id || id->epoch > options.epoch) continue;
    const bool is_stray = id->epoch < options.epoch && !old_chain.contains(*id);
    if (id->number >= below && !is_stray) {
      epochs_left.insert(id->epoch);
      continue;
    }
    const bool removed = files.remove(entry.path);
    kill_point(options.name, ".mid_remove");
    const std::lock_guard lock(mutex);
    segments_removed += removed;
  }
  for (const FileInfo& entry : entries) {
    const auto noted = parse_log_removal_path(entry.path);
    if (noted && *noted < below) files.remove(entry.path);
  }
  // As long as there is no commit of this owner, that of the last one counts.
  epochs_left.insert(newest.segment.epoch);
  for (const FileInfo& entry : entries) {
    const std::optional<std::uint64_t> epoch = parse_log_commit_path(entry.path);
    if (epoch && *epoch < options.epoch && !epochs_left.contains(*epoch)) files.remove(entry.path);
  }
  const std::lock_guard lock(mutex);
  removed_below = below;
}

// ---- Log ----

Log::Log(Runtime& runtime, std::string directory, LogContent content, LogOptions options)
    : state_(std::make_unique<State>(runtime, std::move(directory), std::move(content), std::move(options))) {
  state_->thread = runtime.spawn(state_->options.name, [state = state_.get()] { state->run(); });
}

Log::~Log() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->ending = true;
    state_->wake();
  }
  state_->thread->join();
}

LogPosition Log::append(std::string_view bytes) { return state_->append(bytes, {}, nullptr); }

LogPosition Log::append(std::string_view header, const MemoryBlock& body) {
  if (body.bytes.size() < kept_bytes_min) return state_->append(header, body.bytes, nullptr);
  return state_->append(header, {}, &body);
}

void Log::wait_durable(std::uint64_t end) { state_->wait_durable(end); }

bool Log::durable(std::uint64_t end) {
  const std::lock_guard lock(state_->mutex);
  if (state_->durable_end >= end) return true;
  state_->throw_if_failed();
  return false;
}

std::uint64_t Log::end() {
  const std::lock_guard lock(state_->mutex);
  state_->throw_if_failed();
  return state_->end;
}

void Log::on_durable(std::function<void()> told) {
  const std::lock_guard lock(state_->mutex);
  state_->told = std::move(told);
}

std::uint64_t Log::segment() {
  const std::lock_guard lock(state_->mutex);
  return state_->next_segment;
}

LogPosition Log::append_in_new_segment(std::string_view bytes) { return state_->append(bytes, {}, nullptr, true); }

void Log::roll() {
  const std::lock_guard lock(state_->mutex);
  state_->begin_next_segment();
}

void Log::remove_before(std::uint64_t segment) {
  const std::lock_guard lock(state_->mutex);
  state_->remove_below = std::max(state_->remove_below, segment);
  state_->wake();
}

std::uint64_t Log::segments_removed() {
  const std::lock_guard lock(state_->mutex);
  return state_->segments_removed;
}

}  // namespace sluice::detail
