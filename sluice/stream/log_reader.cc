// Reading logs: which segments are part of one, up to where, and what they hold.
//
// Nothing that was read is believed before it fits its checksum, and no length before it was held against the size of
// the file. What does not fit is damage, unless it can only be what a crash leaves of a group that was never durable:
//
//  R1. Beyond the committed end of the newest segment (all of it, when its owner has committed nothing): a torn tail.
//  R2. The newest segment of an owner, as a whole, when a commit of the segment before shows that its first group was
//      not durable, or when the owner's commit file was never written, so that it has no group at all.
//
// One damaged slot may have been torn by the crash: the other one tells of the group before, and the group that the
// damaged one was to tell of is whole, since it was synced. Without any slot that can be read nothing shows what was
// durable; then a whole tail is accepted, and anything else is damage.
#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "sluice/runtime/checksum.h"
#include "sluice/runtime/errors.h"
#include "sluice/stream/log.h"
#include "sluice/stream/log_format.h"

namespace sluice::detail {
namespace {

using RecordFunction = std::function<void(const LogHandle&, std::string_view)>;

[[noreturn]] void throw_damaged(const std::string& path, std::uint64_t offset, std::string_view why) {
  throw Error(Code::corrupt_data, {.why = path + " at byte " + std::to_string(offset) + ": " + std::string(why)});
}

[[noreturn]] void throw_missing(const std::string& path, std::string_view why) {
  throw Error(Code::truncated_data, {.why = path + " is missing: " + std::string(why)});
}

std::uint32_t u32_at(std::string_view bytes, std::size_t at) {
  std::uint32_t value = 0;
  bytes.copy(reinterpret_cast<char*>(&value), sizeof value, at);
  return value;
}

/// Parts of a file through one buffer.
class Window {
 public:
  explicit Window(File& file) : file_(file) {}

  /// The `count` bytes at `offset`, or fewer when the file ends there. Valid until the next call.
  std::string_view at(std::uint64_t offset, std::size_t count) {
    if (offset < begin_ || offset + count > begin_ + filled_) {
      const std::size_t wanted = std::max(count, read_bytes);
      if (buffer_.size() < wanted) buffer_.resize(wanted);
      begin_ = offset;
      filled_ = file_.read_at(offset, std::span(buffer_).first(wanted));
    }
    return std::string_view(buffer_).substr(0, filled_).substr(static_cast<std::size_t>(offset - begin_), count);
  }

 private:
  static constexpr std::size_t read_bytes = 256 << 10;

  File& file_;
  std::string buffer_;
  std::uint64_t begin_ = 0;
  std::size_t filled_ = 0;
};

/// A segment whose header has been read.
struct Segment {
  LogSegmentId id;
  std::string path;
  LogLink before;
};

/// What the slots of a commit file say.
struct Commits {
  std::optional<LogCommit> newest;
  /// A slot has been written and cannot be read.
  bool damaged = false;

  bool never_written() const { return !newest && !damaged; }
};

Commits read_commits(FileSystem& files, std::uint64_t epoch, const std::string& path) {
  Commits commits;
  const std::unique_ptr<File> file = files.open(path);
  // The file has its name before anything of that owner is durable.
  if (!file) return commits;
  for (std::size_t slot = 0; slot < log_slot_count; ++slot) {
    std::string bytes(log_slot_bytes, '\0');
    // What the file lacks has not been written.
    file->read_at(slot * log_slot_stride, bytes);
    if (bytes.find_first_not_of('\0') == std::string::npos) continue;
    const std::optional<LogCommit> commit = decode_log_commit(bytes, epoch, path);
    if (!commit) {
      commits.damaged = true;
    } else if (!commits.newest || commits.newest->sequence < commit->sequence) {
      commits.newest = commit;
    }
  }
  return commits;
}

class LogReader {
 public:
  LogReader(FileSystem& files, const std::string& directory, std::uint64_t from_segment, const RecordFunction& record)
      : files_(files), directory_(directory), from_segment_(from_segment), record_(record) {}

  LogContent read() {
    list();
    if (find_newest()) {
      find_older();
      read_records();
    }
    LogContent content;
    for (auto& [id, path] : segments_) {
      const bool in_chain =
          std::any_of(chain_.begin(), chain_.end(), [&](const Segment& each) { return each.id == id; });
      if (!in_chain) content.strays.push_back(std::move(path));
    }
    for (std::size_t i = 0; i < chain_.size(); ++i) {
      content.segments.push_back({chain_[i].id.epoch, chain_[i].id.number, chain_[i].path, end_of(i)});
    }
    content.next_segment =
        std::max<std::uint64_t>({chain_.empty() ? 1 : chain_.back().id.number + 1, from_segment_, removed_below_});
    content.torn_bytes = torn_bytes_;
    return content;
  }

 private:
  // Commit files first, segments then: a log that is written meanwhile has the segments that its commits name.
  void list() {
    for (const FileInfo& file : files_.list(directory_).value_or(std::vector<FileInfo>{})) {
      const std::optional<std::uint64_t> epoch = parse_log_commit_path(file.path);
      if (epoch) commits_[*epoch] = read_commits(files_, *epoch, file.path);
    }
    for (FileInfo& file : files_.list(directory_).value_or(std::vector<FileInfo>{})) {
      if (const auto below = parse_log_removal_path(file.path)) removed_below_ = std::max(removed_below_, *below);
      const std::optional<LogSegmentId> id = parse_log_segment_path(file.path);
      if (!id) continue;
      segments_[*id] = std::move(file.path);
      commits_.try_emplace(id->epoch);
    }
  }

  // The newest segment of the newest owner of whom anything may have been durable.
  bool find_newest() {
    for (auto owner = commits_.rbegin(); owner != commits_.rend(); ++owner) {
      if (find_newest_of(owner->first, owner->second)) return true;
    }
    return false;
  }

  bool find_newest_of(std::uint64_t epoch, const Commits& commits) {
    constexpr std::uint64_t last = std::numeric_limits<std::uint64_t>::max();
    const std::uint64_t committed = commits.newest ? commits.newest->segment.number : 0;
    auto at = segments_.upper_bound({epoch, last});
    const auto begin = segments_.lower_bound({epoch, 0});
    bool torn = false;
    while (at != begin) {
      --at;
      const auto& [id, path] = *at;
      std::optional<Segment> segment = open_segment(id, path);
      if (segment) {
        if (id.number < committed) break;
        // An owner's second segment comes after the first commit.
        const bool is_first = segment->before.segment.epoch != epoch;
        newest_commits_ = commits;
        newest_commits_.damaged |= commits.never_written() && !is_first;
        chain_.push_back(std::move(*segment));
        return true;
      }
      // R2.
      if (torn || id.number <= committed || (!commits.newest && (commits.damaged || at != begin))) {
        throw_damaged(path, 0, "the header of the segment is damaged");
      }
      torn = true;
      if (const auto info = files_.stat(path)) torn_bytes_ += info->size_bytes;
    }
    if (commits.newest) {
      throw_missing(log_segment_path(directory_, commits.newest->segment), "its commit file tells of it");
    }
    if (commits.damaged) {
      throw_damaged(log_commit_path(directory_, epoch), 0, "no slot can be read, and the segments are missing");
    }
    return false;
  }

  // nullopt when its header is damaged, or the file gone.
  std::optional<Segment> open_segment(LogSegmentId id, const std::string& path) {
    const std::unique_ptr<File> file = files_.open(path);
    if (!file) return std::nullopt;
    std::string bytes(log_segment_header_bytes, '\0');
    bytes.resize(file->read_at(0, bytes));
    const std::optional<LogLink> before = decode_log_segment_header(bytes, id, path);
    if (!before) return std::nullopt;
    if (before->segment.number >= id.number || before->segment.epoch > id.epoch ||
        (before->segment.number != 0 && before->end < log_segment_header_bytes)) {
      throw_damaged(path, 0, "the segment before cannot be what the header says");
    }
    return Segment{id, path, *before};
  }

  // From link to link, as far back as there are segments.
  void find_older() {
    while (true) {
      const Segment& after = chain_.back();
      const LogLink& link = after.before;
      if (link.segment.number == 0) break;
      const bool needed = link.segment.number >= std::max(from_segment_, removed_below_);
      const auto at = segments_.find(link.segment);
      if (at == segments_.end()) {
        if (needed) throw_missing(log_segment_path(directory_, link.segment), after.path + " follows on it");
        break;
      }
      std::optional<Segment> before = open_segment(at->first, at->second);
      if (!before) {
        if (needed) throw_damaged(at->second, 0, "the header of the segment is damaged");
        break;
      }
      chain_.push_back(std::move(*before));
    }
    std::reverse(chain_.begin(), chain_.end());
  }

  std::uint64_t end_of(std::size_t i) const { return i + 1 < chain_.size() ? chain_[i + 1].before.end : newest_end_; }

  void read_records() {
    const std::optional<LogCommit>& commit = newest_commits_.newest;
    for (std::size_t i = 0; i < chain_.size(); ++i) {
      const Segment& segment = chain_[i];
      const bool is_newest = i + 1 == chain_.size();
      if (!is_newest && segment.id.number < from_segment_) continue;
      const bool has_commit = commit && commit->segment == segment.id;
      const std::uint64_t linked_end = is_newest ? 0 : end_of(i);
      if (has_commit && !is_newest && commit->end > linked_end) {
        throw_damaged(segment.path, linked_end,
                      "the next segment says that it ends here, its commit file that it goes on");
      }
      const std::unique_ptr<File> file = files_.open(segment.path);
      if (!file) throw_missing(segment.path, "it was removed while the log was read");
      const std::uint64_t size = file->info().size_bytes;
      const std::uint64_t committed_end = !is_newest ? linked_end : has_commit ? commit->end : 0;
      const std::uint64_t limit = is_newest ? size : std::min(linked_end, size);
      const std::uint64_t end = read_segment(segment, *file, committed_end, limit, has_commit ? &*commit : nullptr);
      if (is_newest) end_found(segment, end, size);
    }
  }

  void end_found(const Segment& segment, std::uint64_t end, std::uint64_t size) {
    newest_end_ = end;
    torn_bytes_ += size - end;
    // R1.
    if (end < size && newest_commits_.damaged && !newest_commits_.newest) {
      throw_damaged(segment.path, end,
                    "here is no record, and whether there was one cannot be told: the slots of " +
                        log_commit_path(directory_, segment.id.epoch) + " are damaged");
    }
  }

  // Returns the end of the last record. What begins before `committed_end` must be whole.
  std::uint64_t read_segment(const Segment& segment, File& file, std::uint64_t committed_end, std::uint64_t limit,
                             const LogCommit* commit) {
    Window window(file);
    std::uint64_t at = log_segment_header_bytes;
    std::uint32_t group_checksum = 0;
    bool group_begins = false;
    while (at < limit || at < committed_end) {
      const std::string_view bytes = record_at(window, segment.id, at, limit);
      if (bytes.empty()) {
        if (at < committed_end) throw_damaged(segment.path, at, "the record is damaged");
        break;
      }
      if (at < committed_end && at + bytes.size() > committed_end) {
        throw_damaged(segment.path, at, "the record goes beyond the committed end");
      }
      if (commit != nullptr && at >= commit->begin && at < commit->end) {
        group_begins |= at == commit->begin;
        group_checksum = crc32c(bytes.substr(0, log_record_header_bytes), group_checksum);
      }
      if (segment.id.number >= from_segment_) {
        const std::string_view content = bytes.substr(log_record_header_bytes);
        record_({segment.id.epoch, segment.id.number, at, static_cast<std::uint32_t>(content.size())}, content);
      }
      at += bytes.size();
    }
    if (commit != nullptr && !(group_begins && group_checksum == commit->group_checksum)) {
      throw_damaged(segment.path, commit->begin, "the records are not those that were committed");
    }
    return at;
  }

  // The record with its header; empty when there is none that ends before `limit`.
  static std::string_view record_at(Window& window, LogSegmentId segment, std::uint64_t at, std::uint64_t limit) {
    if (at + log_record_header_bytes >= limit) return {};
    const std::string_view header = window.at(at, log_record_header_bytes);
    if (header.size() < log_record_header_bytes) return {};
    const std::uint32_t length = u32_at(header, 0);
    if (length == 0 || length > log_record_bytes_max || length > limit - at - log_record_header_bytes) return {};
    const std::string_view bytes = window.at(at, log_record_header_bytes + length);
    if (bytes.size() < log_record_header_bytes + length) return {};
    const std::uint32_t checksum = log_record_checksum(segment, at, length);
    if (crc32c(bytes.substr(log_record_header_bytes), checksum) != u32_at(bytes, 4)) return {};
    return bytes;
  }

  FileSystem& files_;
  const std::string& directory_;
  const std::uint64_t from_segment_;
  const RecordFunction& record_;
  std::uint64_t removed_below_ = 0;
  std::map<std::uint64_t, Commits> commits_;      // by epoch, one for each owner that has a file
  std::map<LogSegmentId, std::string> segments_;  // their paths
  std::vector<Segment> chain_;
  Commits newest_commits_;
  std::uint64_t newest_end_ = 0;
  std::uint64_t torn_bytes_ = 0;
};

}  // namespace

LogContent read_log(FileSystem& files, const std::string& directory, std::uint64_t from_segment,
                    const std::function<void(const LogHandle&, std::string_view)>& record) {
  return LogReader(files, directory, from_segment, record).read();
}

std::uint64_t last_log_segment(FileSystem& files, const std::string& directory) {
  std::uint64_t last = 0;
  for (const FileInfo& file : files.list(directory).value_or(std::vector<FileInfo>{})) {
    if (const auto id = parse_log_segment_path(file.path)) last = std::max(last, id->number);
  }
  return last;
}

std::string read_log_record(FileSystem& files, const std::string& directory, const LogHandle& handle) {
  const LogSegmentId segment{handle.epoch, handle.segment};
  const std::string path = log_segment_path(directory, segment);
  const std::unique_ptr<File> file = files.open(path);
  if (!file) throw Error(Code::not_readable, {.why = path + ": the segment is gone"});
  // The handle may be as damaged as the file.
  const std::uint64_t size = file->info().size_bytes;
  const std::uint64_t bytes = log_record_header_bytes + handle.bytes;
  if (handle.bytes > log_record_bytes_max || handle.offset > size || bytes > size - handle.offset) {
    throw Error(Code::truncated_data,
                {.why = path + " has " + std::to_string(size) + " bytes; a record of " + std::to_string(handle.bytes) +
                        " was written at byte " + std::to_string(handle.offset)});
  }
  std::string record(static_cast<std::size_t>(bytes), '\0');
  record.resize(file->read_at(handle.offset, record));
  const std::string_view content = std::string_view(record).substr(std::min(record.size(), log_record_header_bytes));
  const std::uint32_t checksum = log_record_checksum(segment, handle.offset, handle.bytes);
  if (record.size() < bytes || u32_at(record, 0) != handle.bytes || crc32c(content, checksum) != u32_at(record, 4)) {
    throw_damaged(path, handle.offset, "this is not the record that was written here");
  }
  record.erase(0, log_record_header_bytes);
  return record;
}

}  // namespace sluice::detail

namespace sluice {

void codec<detail::LogHandle>::encode(const detail::LogHandle& handle, Encoder& out) {
  out.varint(handle.epoch);
  out.varint(handle.segment);
  out.varint(handle.offset);
  out.varint(handle.bytes);
}

detail::LogHandle codec<detail::LogHandle>::decode(Decoder& in) {
  detail::LogHandle handle;
  handle.epoch = in.varint();
  handle.segment = in.varint();
  handle.offset = in.varint();
  const std::uint64_t bytes = in.varint();
  if (bytes > detail::log_record_bytes_max) in.fail_corrupt("the length of a record is over its limit");
  handle.bytes = static_cast<std::uint32_t>(bytes);
  return handle;
}

}  // namespace sluice
