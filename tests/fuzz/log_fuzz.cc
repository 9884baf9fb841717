// Any bytes, as the files of a log: records that can also be read alone, or an error that says what is wrong with them.
//
// An input is flags (1 byte), two segments (length of 2 bytes, bytes; one without bytes is no file), and the two slots
// of the newest owner's commit file. As the checksums would keep nearly all inputs from getting far, flags have them
// filled in: 1 those of headers and slots, 2 those of records.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/runtime/checksum.h"
#include "sluice/runtime/errors.h"
#include "sluice/stream/log.h"
#include "sluice/stream/log_format.h"
#include "sluice/testkit/simulation.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using namespace sluice::detail;

std::string take(std::string_view& input, std::size_t count) {
  const std::string taken(input.substr(0, count));
  input.remove_prefix(taken.size());
  return taken;
}

std::string take_segment(std::string_view& input) {
  const std::string length = take(input, 2);
  if (length.size() < 2) return {};
  return take(input, static_cast<unsigned char>(length[0]) | static_cast<std::size_t>(length[1] & 0x0f) << 8);
}

void put_u32(std::string& bytes, std::size_t at, std::uint32_t value) { std::memcpy(bytes.data() + at, &value, 4); }

// Of a header or a slot.
void fill_in_checksum(std::string& bytes) {
  if (bytes.size() < log_segment_header_bytes) return;
  put_u32(bytes, 52, sluice::crc32c(std::string_view(bytes).substr(0, 52)));
}

void fill_in_record_checksums(std::string& bytes, LogSegmentId segment) {
  for (std::size_t at = log_segment_header_bytes; at + log_record_header_bytes < bytes.size();) {
    std::uint32_t length = 0;
    std::memcpy(&length, bytes.data() + at, 4);
    if (length > bytes.size() - at - log_record_header_bytes) return;
    const std::string_view content = std::string_view(bytes).substr(at + log_record_header_bytes, length);
    put_u32(bytes, at + 4, sluice::crc32c(content, log_record_checksum(segment, at, length)));
    at += log_record_header_bytes + length;
  }
}

bool is_allowed(sluice::Code code) {
  return code == sluice::Code::corrupt_data || code == sluice::Code::truncated_data ||
         code == sluice::Code::other_version || code == sluice::Code::over_limit;
}

void require(bool holds) {
  if (!holds) std::abort();
}

void read(sluice::FileSystem& files, std::uint64_t from_segment) {
  std::vector<LogHandle> handles;
  std::vector<std::string> texts;
  try {
    const LogContent content =
        read_log(files, "/log", from_segment, [&](const LogHandle& handle, std::string_view text) {
          handles.push_back(handle);
          texts.emplace_back(text);
        });
    for (const LogHandle& handle : handles) require(handle.segment >= from_segment);
    require(content.next_segment >= from_segment);
    for (const LogSegment& segment : content.segments) require(content.next_segment > segment.number);
    require(content.segments.size() + content.strays.size() <= 2);
  } catch (const sluice::Error& error) {
    require(is_allowed(error.code()));
  }
  for (std::size_t i = 0; i < handles.size(); ++i) require(read_log_record(files, "/log", handles[i]) == texts[i]);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string flags = take(input, 1);
  const bool fills_in = !flags.empty() && (flags[0] & 1) != 0;
  const bool fills_in_records = !flags.empty() && (flags[0] & 2) != 0;
  sluice::testing::Simulation sim(1);
  sluice::FileSystem& files = sim.files();
  files.make_directories("/log");
  std::uint64_t newest = 1;
  for (const std::uint64_t number : {1, 2}) {
    std::string bytes = take_segment(input);
    if (bytes.empty()) continue;
    if (fills_in) fill_in_checksum(bytes);
    if (fills_in_records) fill_in_record_checksums(bytes, {number, number});
    files.create(log_segment_path("/log", {number, number}))->append(bytes);
    newest = number;
  }
  if (!input.empty()) {
    std::string commits;
    for (std::size_t slot = 0; slot < log_slot_count; ++slot) {
      std::string bytes = take(input, log_slot_bytes);
      if (fills_in) fill_in_checksum(bytes);
      commits.resize(slot * log_slot_stride);
      commits += bytes;
    }
    files.create(log_commit_path("/log", newest))->append(commits);
  }
  read(files, 0);
  read(files, 2);
  read(files, 100);
  return 0;
}
