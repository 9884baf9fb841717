// The bytes of logs (docs/formats.md, "Logs"): names of files, headers of segments, checksums of records, slots of
// commit files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sluice::detail {

inline constexpr std::uint32_t log_version = 1;
inline constexpr std::size_t log_segment_header_bytes = 56;
inline constexpr std::size_t log_record_header_bytes = 8;
inline constexpr std::uint64_t log_record_bytes_max = 1 << 30;
inline constexpr std::size_t log_slot_bytes = 56;
inline constexpr std::size_t log_slot_count = 2;
/// From slot to slot, so that a write that is torn, in sectors of any usual size, damages one of them only.
inline constexpr std::size_t log_slot_stride = 4096;
inline constexpr std::size_t log_commit_file_bytes = log_slot_count * log_slot_stride;

/// Which segment: its owner's epoch, and its number in the whole log.
struct LogSegmentId {
  std::uint64_t epoch = 0;
  std::uint64_t number = 0;
  friend auto operator<=>(const LogSegmentId&, const LogSegmentId&) = default;
};

/// Where the segment before ended for the owner of this one. Number 0: there was none.
struct LogLink {
  LogSegmentId segment;
  std::uint64_t end = 0;
};

/// What a commit file says: everything before `end` of `segment` is durable, and the group from `begin` to there has
/// that checksum (of its records' headers one after the other).
struct LogCommit {
  std::uint64_t sequence = 0;
  LogSegmentId segment;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::uint32_t group_checksum = 0;
};

std::string log_segment_path(const std::string& directory, LogSegmentId segment);
std::string log_commit_path(const std::string& directory, std::uint64_t epoch);
/// An empty file: the segments with smaller numbers are not needed any more, and may be missing.
std::string log_removal_path(const std::string& directory, std::uint64_t below);
/// What the last part of a path says; nullopt for the names of other files.
std::optional<LogSegmentId> parse_log_segment_path(std::string_view path);
std::optional<std::uint64_t> parse_log_commit_path(std::string_view path);
std::optional<std::uint64_t> parse_log_removal_path(std::string_view path);

std::string encode_log_segment_header(LogSegmentId segment, const LogLink& before);
/// nullopt when the bytes are no header of that segment. Errors: SLU-303 naming `path`, for a newer version.
std::optional<LogLink> decode_log_segment_header(std::string_view bytes, LogSegmentId segment, const std::string& path);

std::string encode_log_commit(const LogCommit& commit);
/// nullopt when the bytes are no commit of an owner of that epoch. Errors: SLU-303 naming `path`.
std::optional<LogCommit> decode_log_commit(std::string_view bytes, std::uint64_t epoch, const std::string& path);

/// The checksum of a record without its content, from which that of the content goes on. Segment and offset are part of
/// it, so bytes that belong elsewhere (a block that was misplaced, or never overwritten) are no record here.
std::uint32_t log_record_checksum(LogSegmentId segment, std::uint64_t offset, std::uint32_t length);

}  // namespace sluice::detail
