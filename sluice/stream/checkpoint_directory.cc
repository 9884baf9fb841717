#include "sluice/stream/checkpoint_directory.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <utility>

#include "sluice/core/codec.h"
#include "sluice/core/hash.h"
#include "sluice/runtime/planted_bug.h"
#include "sluice/stream/framed.h"
#include "sluice/stream/owed.h"

namespace sluice::detail {
namespace {

constexpr FramedKind format_kind{0x44434c53, 1, "a checkpoint directory"};  // "SLCD"
constexpr std::uint64_t format_bytes_max = 1 << 20;
// Numbers of epochs that stay to be seen by people.
constexpr std::uint64_t epochs_kept = 16;
// Numbers of blocks of different runs never meet.
constexpr unsigned block_number_bits = 40;

std::string epoch_path(const std::string& directory, std::uint64_t epoch) {
  char name[32];
  std::snprintf(name, sizeof name, "/epochs/%010llu", static_cast<unsigned long long>(epoch));
  return directory + name;
}

}  // namespace

std::optional<CheckpointFormat> read_checkpoint_format(FileSystem& files, const std::string& directory) {
  const std::string path = directory + "/FORMAT";
  if (!files.stat(path).has_value()) return std::nullopt;
  const std::string bytes = read_file(files, path, format_bytes_max);
  return naming_file(path, [&] {
    Decoder from(take_out_of_frame(format_kind, bytes));
    CheckpointFormat format;
    format.app = std::string(from.text());
    format.hash_seed = from.u64();
    format.key_groups = from.u32();
    from.expect_end();
    return format;
  });
}

std::vector<std::uint64_t> list_epochs(FileSystem& files, const std::string& directory) {
  std::vector<std::uint64_t> epochs;
  const auto listed = files.list(directory + "/epochs");
  for (const FileInfo& file : listed.value_or(std::vector<FileInfo>{})) {
    const std::string_view name = base_name(file.path);
    std::uint64_t number = 0;
    std::from_chars(name.data(), name.data() + name.size(), number);
    if (number > 0 && epoch_path(directory, number) == directory + "/epochs/" + std::string(name)) {
      epochs.push_back(number);
    }
  }
  std::sort(epochs.begin(), epochs.end());
  return epochs;
}

/// Blocks of one input: first their bytes into the log of blocks, then the record that names them into the journal. The
/// two are synced at the same time; what is visible waits for both.
class CheckpointDirectory::Recorder : public BlockRecorder {
 public:
  Recorder(Log& wal, Journal& journal, std::size_t input) : wal_(wal), journal_(journal), input_(input) {}

  Recorded record(const RecordedBlock& block, const MemoryBlock& bytes) override {
    RecordedBlock recorded = block;
    const LogPosition logged = wal_.append({}, bytes);
    recorded.handle = logged.handle;
    const LogPosition named = journal_.block(input_, recorded);
    const std::lock_guard lock(mutex_);
    places_[named.end] = logged.end;
    return {named.end, logged.handle};
  }
  void wait_durable(std::uint64_t place) override {
    if (planted_bug("told-before-durable")) return;
    std::uint64_t logged = 0;
    {
      const std::lock_guard lock(mutex_);
      // Those before are durable when this one is.
      const auto here = places_.find(place);
      if (here != places_.end()) logged = here->second;
      places_.erase(places_.begin(), places_.upper_bound(place));
    }
    if (logged != 0) wal_.wait_durable(logged);
    journal_.log().wait_durable(place);
  }

 private:
  Log& wal_;
  Journal& journal_;
  const std::size_t input_;
  std::mutex mutex_;
  std::map<std::uint64_t, std::uint64_t> places_;
};

CheckpointDirectory::CheckpointDirectory(Runtime& runtime, CheckpointDirectoryOptions options)
    : runtime_(runtime), options_(std::move(options)) {
  read_format();
  if (!options_.read_only) take_epoch();
  content_ = read_journal(runtime_.files(), options_.path + "/journal");
  wal_content_ = read_log(runtime_.files(), wal_path(), last_log_segment(runtime_.files(), wal_path()),
                          [](const LogHandle&, std::string_view) {});
  drop_blocks_without_bytes();
  find_manifest();
  // Where inputs stood is published before the first batch is recorded.
  if (!manifest_.has_value() && !before_.has_value() && !content_.batches.empty()) {
    throw Error(Code::no_readable_checkpoint,
                {.why = "the journal in " + options_.path + " tells of batches, and there is no checkpoint"});
  }
}

CheckpointDirectory::~CheckpointDirectory() = default;

// Journal and log of blocks are synced at the same time, so a crash may leave a block's record without its bytes. Such
// a block was never acknowledged to its source, and no batch that names it has been seen by anyone.
void CheckpointDirectory::drop_blocks_without_bytes() {
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::uint64_t> ends;
  for (const LogSegment& segment : wal_content_.segments) ends[{segment.epoch, segment.number}] = segment.end;
  for (auto& [input, blocks] : content_.blocks) {
    std::erase_if(blocks, [&](const auto& each) {
      const std::optional<LogHandle>& handle = each.second.handle;
      if (!handle) return true;
      const auto segment = ends.find({handle->epoch, handle->segment});
      return segment == ends.end() || handle->offset + handle->bytes > segment->second;
    });
    // What a receiver said with a block that is gone is not where its source must be read on.
    content_.receivers[input] = content_.last_told(input);
  }
}

void CheckpointDirectory::read_format() {
  FileSystem& files = runtime_.files();
  std::optional<CheckpointFormat> format = read_checkpoint_format(files, options_.path);
  if (!format) {
    if (options_.read_only) throw Error(Code::not_readable, {.why = options_.path + " is no checkpoint directory"});
    files.make_directories(options_.path + "/epochs");
    Encoder out;
    out.text(options_.app);
    out.u64(options_.hash_seed);
    out.u32(key_groups);
    if (files.publish_new(options_.path + "/FORMAT", put_in_frame(format_kind, out.view()))) return;
    format = read_checkpoint_format(files, options_.path);  // of another program that is starting, too
    if (!format) throw Error(Code::not_readable, {.why = options_.path + "/FORMAT has come and gone"});
  }
  const auto refuse = [&](const std::string& what, const std::string& before, const std::string& now) {
    throw Error(Code::other_checkpoint, {.why = options_.path + ": " + what + " was " + before + " and is " + now});
  };
  if (format->app != options_.app) {
    refuse("the application (--sluice.app)", "\"" + format->app + "\"", "\"" + options_.app + "\"");
  }
  if (format->hash_seed != options_.hash_seed) {
    refuse("the seed of the key hash (--sluice.hash-seed)", std::to_string(format->hash_seed),
           std::to_string(options_.hash_seed));
  }
  if (format->key_groups != key_groups) {
    refuse("the number of key groups", std::to_string(format->key_groups), std::to_string(key_groups));
  }
}

void CheckpointDirectory::take_epoch() {
  FileSystem& files = runtime_.files();
  files.make_directories(options_.path + "/epochs");
  for (;;) {
    const std::vector<std::uint64_t> taken = list_epochs(files, options_.path);
    const std::uint64_t next = taken.empty() ? 1 : taken.back() + 1;
    const std::string who = "build " + std::to_string(options_.build) + "\n";
    // Of two that start at the same time one gets the number; the other tries the next and so fences the first.
    if (!files.publish_new(epoch_path(options_.path, next), who)) continue;
    epoch_ = next;
    // In their order, see `fenced`.
    for (const std::uint64_t old : taken) {
      if (old + epochs_kept <= epoch_) files.remove(epoch_path(options_.path, old));
    }
    return;
  }
}

// A run that has slept for long may find that those after it have gone, too; but its own number goes before them.
bool CheckpointDirectory::fenced() {
  FileSystem& files = runtime_.files();
  return files.stat(epoch_path(options_.path, epoch_ + 1)).has_value() ||
         !files.stat(epoch_path(options_.path, epoch_)).has_value();
}

// The newest that can be read; what is wrong with others is kept for who asks.
void CheckpointDirectory::find_manifest() {
  manifest_.reset();
  bool any_damaged = false;
  for (const std::string& path : list_manifests(runtime_.files(), options_.path)) {
    if (unreadable_.contains(path)) {
      any_damaged = true;
      continue;
    }
    try {
      Manifest manifest = read_manifest(runtime_.files(), path);
      if (before_.has_value() && manifest.time >= *before_) continue;
      manifest_ = std::move(manifest);
      manifest_path_ = path;
      return;
    } catch (const Error& error) {
      if (!is_damage(error)) throw;
      any_damaged = true;
      unreadable_.insert(path);
      damage_.push_back(error.details().why);
    }
  }
  if (!any_damaged) return;
  std::string why;
  for (const std::string& each : damage_) why += (why.empty() ? "" : "; ") + each;
  throw Error(Code::no_readable_checkpoint, {.why = std::move(why)});
}

bool CheckpointDirectory::choose_manifest_before(Time time) {
  before_ = time;
  find_manifest();
  return manifest_.has_value();
}

bool CheckpointDirectory::read_state(const std::function<void()>& begin,
                                     const std::function<void(const CheckpointOperator&, StateBlock&&)>& f) {
  SLUICE_ASSERT(manifest_.has_value());
  try {
    begin();
    for (const StateFileInfo& file : manifest_->chain) read_state_file(runtime_.files(), options_.path, file, f);
    return true;
  } catch (const Error& error) {
    // A disk that fails now, and a program that the state does not fit, would be no better off with an older one.
    if (!is_damage(error)) throw;
    unreadable_.insert(manifest_path_);
    damage_.push_back(error.details().why);
    find_manifest();
    return false;
  }
}

void CheckpointDirectory::begin_run(Time zero, std::vector<std::string> inputs, std::vector<std::string> outputs,
                                    bool whole_base) {
  const auto is_fenced = [this] { return fenced(); };
  remove_owed_strays();
  sync_log(runtime_.files(), wal_path(), wal_content_);
  if (options_.wal) {
    // Receivers' memory bounds what is not durable yet.
    wal_ = std::make_unique<Log>(runtime_, wal_path(), wal_content_,
                                 LogOptions{.epoch = epoch_,
                                            .segment_bytes = 64 << 20,
                                            .fenced = is_fenced,
                                            .pending_bytes_max = ~std::uint64_t{0},
                                            .name = "wal"});
  }
  journal_ = std::make_unique<Journal>(
      runtime_, options_.path + "/journal", content_,
      RunRecord{epoch_, options_.build, zero, options_.interval, std::move(inputs), std::move(outputs)}, is_fenced,
      [this] {
        if (wal_ != nullptr) wal_->wait_durable(wal_->end());
      });
  Checkpointer::Options checkpoints;
  checkpoints.directory = options_.path;
  checkpoints.epoch = epoch_;
  if (manifest_.has_value() && !whole_base) checkpoints.chain = manifest_->chain;
  checkpoints.keep = options_.interval * static_cast<std::int64_t>(options_.keep_batches);
  checkpoints.fenced = is_fenced;
  checkpointer_ = std::make_unique<Checkpointer>(runtime_, journal_->log(), std::move(checkpoints));
}

// Of a run that was killed before its journal knew that it owes them, or after it knew that they are delivered.
void CheckpointDirectory::remove_owed_strays() {
  if (fenced()) return;  // what a newer run owes is not in this one's journal
  std::set<std::string, std::less<>> known;
  for (const OwedOutput& owed : content_.owed) known.insert(owed_file_name(owed));
  for (const FileInfo& file : runtime_.files().list(owed_path()).value_or(std::vector<FileInfo>{})) {
    if (!known.contains(base_name(file.path))) runtime_.files().remove(file.path);
  }
}

std::uint64_t CheckpointDirectory::first_block_number() const { return epoch_ << block_number_bits; }

std::shared_ptr<BlockRecorder> CheckpointDirectory::recorder(std::size_t input) {
  if (wal_ == nullptr) return nullptr;
  return std::make_shared<Recorder>(*wal_, *journal_, input);
}

void CheckpointDirectory::wait_durable() {
  // The journal names what lies in the log of blocks, so its end is looked at first.
  const std::uint64_t journal_end = journal_->log().end();
  if (wal_ != nullptr) wal_->wait_durable(wal_->end());
  journal_->log().wait_durable(journal_end);
}

void CheckpointDirectory::clean(Duration held_for) {
  const std::optional<Time> oldest = checkpointer_->oldest_kept();
  if (!oldest.has_value() || oldest == cleaned_) return;
  cleaned_ = oldest;
  journal_->forget(planted_bug("removed-too-early") ? *oldest + std::chrono::hours(1) : *oldest - held_for);
  if (wal_ != nullptr) wal_->remove_before(std::min(journal_->first_wal_segment(), wal_->segment()));
}

}  // namespace sluice::detail
