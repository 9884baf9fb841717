#include "sluice/stream/log_format.h"

#include <charconv>
#include <cstdio>
#include <cstring>
#include <system_error>

#include "sluice/core/codec.h"
#include "sluice/runtime/checksum.h"
#include "sluice/runtime/errors.h"
#include "sluice/runtime/filesystem.h"

namespace sluice::detail {
namespace {

// "SLUL" and "SLUC" as they lie in the file.
constexpr std::uint32_t segment_magic = 0x4c554c53;
constexpr std::uint32_t commit_magic = 0x43554c53;

std::string padded(std::uint64_t number) {
  char text[24];
  std::snprintf(text, sizeof text, "%010llu", static_cast<unsigned long long>(number));
  return text;
}

std::string segment_name(LogSegmentId segment) { return padded(segment.epoch) + "-" + padded(segment.number) + ".log"; }

std::string commit_name(std::uint64_t epoch) { return "commit-" + padded(epoch); }

std::string removal_name(std::uint64_t below) { return "removed-before-" + padded(below); }

// Of what has been checked to be digits and no more by writing it again.
std::uint64_t number_of(std::string_view digits) {
  std::uint64_t number = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), number);
  return number;
}

std::string with_checksum(Encoder& out) {
  out.u32(crc32c(out.view()));
  return out.take();
}

bool checksum_fits(std::string_view bytes) {
  std::uint32_t checksum = 0;
  const std::size_t covered = bytes.size() - sizeof checksum;
  std::memcpy(&checksum, bytes.data() + covered, sizeof checksum);
  return crc32c(bytes.substr(0, covered)) == checksum;
}

void refuse_newer(std::uint32_t version, const std::string& path) {
  if (version <= log_version) return;
  throw Error(Code::other_version, {.why = path + " has version " + std::to_string(version) +
                                           " of the format of logs, written by a newer sluice; this one reads up to " +
                                           std::to_string(log_version)});
}

}  // namespace

std::string log_segment_path(const std::string& directory, LogSegmentId segment) {
  return directory + "/" + segment_name(segment);
}

std::string log_commit_path(const std::string& directory, std::uint64_t epoch) {
  return directory + "/" + commit_name(epoch);
}

std::string log_removal_path(const std::string& directory, std::uint64_t below) {
  return directory + "/" + removal_name(below);
}

std::optional<std::uint64_t> parse_log_removal_path(std::string_view path) {
  const std::string_view name = base_name(path);
  const std::uint64_t below = number_of(name.substr(std::min(name.rfind('-'), name.size() - 1) + 1));
  if (removal_name(below) != name) return std::nullopt;
  return below;
}

std::optional<LogSegmentId> parse_log_segment_path(std::string_view path) {
  const std::string_view name = base_name(path);
  const std::size_t dash = std::min(name.find('-'), name.size());
  const LogSegmentId segment{number_of(name.substr(0, dash)), number_of(name.substr(std::min(dash + 1, name.size())))};
  if (segment.number == 0 || segment_name(segment) != name) return std::nullopt;
  return segment;
}

std::optional<std::uint64_t> parse_log_commit_path(std::string_view path) {
  const std::string_view name = base_name(path);
  const std::uint64_t epoch = number_of(name.substr(std::min(name.find('-'), name.size() - 1) + 1));
  if (commit_name(epoch) != name) return std::nullopt;
  return epoch;
}

std::string encode_log_segment_header(LogSegmentId segment, const LogLink& before) {
  Encoder out;
  out.u32(segment_magic);
  out.u32(log_version);
  out.u64(segment.epoch);
  out.u64(segment.number);
  out.u64(before.segment.epoch);
  out.u64(before.segment.number);
  out.u64(before.end);
  out.u32(0);
  return with_checksum(out);
}

std::optional<LogLink> decode_log_segment_header(std::string_view bytes, LogSegmentId segment,
                                                 const std::string& path) {
  if (bytes.size() < log_segment_header_bytes) return std::nullopt;
  bytes = bytes.substr(0, log_segment_header_bytes);
  Decoder in(bytes);
  if (in.u32() != segment_magic) return std::nullopt;
  // Before the checksum, whose place a newer version may have changed.
  refuse_newer(in.u32(), path);
  if (!checksum_fits(bytes)) return std::nullopt;
  if (LogSegmentId{in.u64(), in.u64()} != segment) return std::nullopt;
  return LogLink{{in.u64(), in.u64()}, in.u64()};
}

std::string encode_log_commit(const LogCommit& commit) {
  Encoder out;
  out.u32(commit_magic);
  out.u32(log_version);
  out.u64(commit.sequence);
  out.u64(commit.segment.epoch);
  out.u64(commit.segment.number);
  out.u64(commit.begin);
  out.u64(commit.end);
  out.u32(commit.group_checksum);
  return with_checksum(out);
}

std::optional<LogCommit> decode_log_commit(std::string_view bytes, std::uint64_t epoch, const std::string& path) {
  if (bytes.size() < log_slot_bytes) return std::nullopt;
  bytes = bytes.substr(0, log_slot_bytes);
  Decoder in(bytes);
  // The checksum first: a slot that a flipped bit made "newer" is damaged, and there is another one. A newer version
  // that changes slots changes the headers of segments, too.
  if (in.u32() != commit_magic || !checksum_fits(bytes)) return std::nullopt;
  refuse_newer(in.u32(), path);
  LogCommit commit;
  commit.sequence = in.u64();
  commit.segment = {in.u64(), in.u64()};
  commit.begin = in.u64();
  commit.end = in.u64();
  commit.group_checksum = in.u32();
  if (commit.segment.epoch != epoch) return std::nullopt;
  return commit;
}

std::uint32_t log_record_checksum(LogSegmentId segment, std::uint64_t offset, std::uint32_t length) {
  char bytes[28];
  std::memcpy(bytes, &segment.epoch, 8);
  std::memcpy(bytes + 8, &segment.number, 8);
  std::memcpy(bytes + 16, &offset, 8);
  std::memcpy(bytes + 24, &length, 4);
  return crc32c({bytes, sizeof bytes});
}

}  // namespace sluice::detail
