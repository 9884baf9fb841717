#include "sluice/stream/checkpoint_directory.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <utility>

#include "sluice/core/codec.h"
#include "sluice/core/hash.h"
#include "sluice/runtime/checksum.h"
#include "sluice/runtime/kill_point.h"

namespace sluice::detail {
namespace {

constexpr std::uint32_t format_magic = 0x44434c53;  // "SLCD"
constexpr std::uint8_t format_version = 1;
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

/// Blocks of one input: first their bytes into the log of blocks, then the record that names them into the journal. The
/// two are synced at the same time; what is visible waits for both.
class CheckpointDirectory::Recorder : public BlockRecorder {
 public:
  Recorder(Log& wal, Journal& journal, std::size_t input) : wal_(wal), journal_(journal), input_(input) {}

  std::uint64_t record(const RecordedBlock& block, const MemoryBlock& bytes) override {
    RecordedBlock recorded = block;
    const LogPosition logged = wal_.append({}, bytes);
    recorded.handle = logged.handle;
    const LogPosition named = journal_.block(input_, recorded);
    const std::lock_guard lock(mutex_);
    places_[named.end] = logged.end;
    return named.end;
  }
  void wait_durable(std::uint64_t place) override {
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
  find_manifest(std::nullopt);
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
    JournalContent::Told& told = content_.receivers[input];
    for (const auto& [number, block] : blocks) {
      if (number >= told.number && !block.position.empty()) told = {number, block.position};
    }
  }
}

void CheckpointDirectory::read_format() {
  FileSystem& files = runtime_.files();
  const std::string path = options_.path + "/FORMAT";
  if (!files.stat(path).has_value()) {
    if (options_.read_only) throw Error(Code::not_readable, {.why = options_.path + " is no checkpoint directory"});
    files.make_directories(options_.path + "/epochs");
    Encoder body;
    body.text(options_.app);
    body.u64(options_.hash_seed);
    body.u32(key_groups);
    Encoder all;
    all.u32(format_magic);
    all.u8(format_version);
    all.u32(crc32c(body.view()));
    all.bytes(body.view());
    files.publish(path, all.view());
    return;
  }
  const std::string bytes = read_file(files, path, 1 << 20);
  Decoder in(bytes);
  if (in.u32() != format_magic)
    throw Error(Code::corrupt_data, {.why = path + " is not that of a checkpoint directory"});
  if (const std::uint8_t version = in.u8(); version > format_version) {
    throw Error(Code::other_version,
                {.why = options_.path + " is a checkpoint directory of version " + std::to_string(version) +
                        ", this program knows " + std::to_string(format_version)});
  }
  const std::uint32_t sum = in.u32();
  const std::string_view body = in.bytes(in.remaining());
  if (crc32c(body) != sum) throw Error(Code::corrupt_data, {.why = path + ": its checksum is wrong"});
  Decoder from(body);
  const std::string app(from.text());
  const std::uint64_t seed = from.u64();
  const std::uint32_t groups = from.u32();
  from.expect_end();
  const auto refuse = [&](const std::string& what, const std::string& before, const std::string& now) {
    throw Error(Code::other_checkpoint, {.why = options_.path + ": " + what + " was " + before + " and is " + now});
  };
  if (app != options_.app) refuse("the application (--sluice.app)", "\"" + app + "\"", "\"" + options_.app + "\"");
  if (seed != options_.hash_seed) {
    refuse("the seed of the key hash (--sluice.hash-seed)", std::to_string(seed), std::to_string(options_.hash_seed));
  }
  if (groups != key_groups) refuse("the number of key groups", std::to_string(groups), std::to_string(key_groups));
}

void CheckpointDirectory::take_epoch() {
  FileSystem& files = runtime_.files();
  files.make_directories(options_.path + "/epochs");
  for (;;) {
    std::uint64_t last = 0;
    const auto listed = files.list(options_.path + "/epochs");
    for (const FileInfo& file : listed.value_or(std::vector<FileInfo>{})) {
      const std::string_view name = std::string_view(file.path).substr(file.path.find_last_of('/') + 1);
      std::uint64_t number = 0;
      const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
      if (error == std::errc() && end == name.data() + name.size()) last = std::max(last, number);
    }
    const std::string who = "build " + std::to_string(options_.build) + "\n";
    // Of two that start at the same time one gets the number; the other tries the next and so fences the first.
    if (!files.publish_new(epoch_path(options_.path, last + 1), who)) continue;
    epoch_ = last + 1;
    if (epoch_ > epochs_kept) files.remove(epoch_path(options_.path, epoch_ - epochs_kept));
    return;
  }
}

bool CheckpointDirectory::fenced() { return runtime_.files().stat(epoch_path(options_.path, epoch_ + 1)).has_value(); }

// The newest that can be read; what is wrong with others is kept for who asks.
void CheckpointDirectory::find_manifest(std::optional<Time> before) {
  manifest_.reset();
  std::size_t seen = 0;
  for (const std::string& path : list_manifests(runtime_.files(), options_.path)) {
    ++seen;
    if (unreadable_.contains(path)) continue;
    try {
      Manifest manifest = read_manifest(runtime_.files(), path);
      if (before.has_value() && manifest.time >= *before) continue;
      manifest_ = std::move(manifest);
      return;
    } catch (const Error& error) {
      if (error.code() == Code::other_version) throw;
      unreadable_.insert(path);
      damage_.push_back(error.details().why);
    }
  }
  if (seen > 0 && unreadable_.size() == seen) {
    std::string why;
    for (const std::string& each : damage_) why += (why.empty() ? "" : "; ") + each;
    throw Error(Code::no_readable_checkpoint, {.why = std::move(why)});
  }
}

bool CheckpointDirectory::choose_manifest_before(Time time) {
  find_manifest(time);
  return manifest_.has_value();
}

bool CheckpointDirectory::read_state(const std::function<void(const CheckpointOperator&, StateBlock&&)>& f) {
  SLUICE_ASSERT(manifest_.has_value());
  try {
    for (const StateFileInfo& file : manifest_->chain) read_state_file(runtime_.files(), options_.path, file, f);
    return true;
  } catch (const Error& error) {
    if (error.code() == Code::other_version || error.code() == Code::io_failed) throw;
    unreadable_.insert(options_.path + "/" + manifest_name(manifest_->time, manifest_->epoch));
    damage_.push_back(error.details().why);
    find_manifest(std::nullopt);
    return false;
  }
}

void CheckpointDirectory::begin_run(Time zero, std::vector<std::string> inputs, std::vector<std::string> outputs,
                                    bool whole_base) {
  const auto is_fenced = [this] { return fenced(); };
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
  journal_->forget(*oldest - held_for);
  if (wal_ != nullptr) wal_->remove_before(std::min(journal_->first_wal_segment(), wal_->segment()));
}

}  // namespace sluice::detail
