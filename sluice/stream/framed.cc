#include "sluice/stream/framed.h"

#include <limits>

#include "sluice/core/codec.h"
#include "sluice/runtime/checksum.h"

namespace sluice::detail {
namespace {

constexpr std::size_t magic_and_version_bytes = 5;

}  // namespace

std::string put_in_frame(const FramedKind& kind, std::string_view content) {
  if (content.size() > std::numeric_limits<std::uint32_t>::max()) {
    throw Error(Code::over_limit, {.why = std::string(kind.name) + " has " + std::to_string(content.size()) +
                                          " bytes; at most 4 GiB can be written"});
  }
  Encoder out;
  out.reserve(frame_head_bytes + content.size());
  out.u32(kind.magic);
  out.u8(kind.version);
  const std::uint32_t checksum = crc32c(content, crc32c(out.view()));
  out.u32(static_cast<std::uint32_t>(content.size()));
  out.u32(checksum);
  out.bytes(content);
  return out.take();
}

FrameHead::FrameHead(const FramedKind& kind, std::string_view bytes) : kind_(kind) {
  Decoder in(bytes);
  if (in.u32() != kind.magic) throw Error(Code::corrupt_data, {.why = "this is not " + std::string(kind.name)});
  version_ = in.u8();
  checksum_before_ = crc32c(bytes.substr(0, magic_and_version_bytes));
  size_ = in.u32();
  checksum_ = in.u32();
}

void FrameHead::check(std::string_view content) const {
  if (crc32c(content, checksum_before_) != checksum_) {
    throw Error(Code::corrupt_data,
                {.why = "the checksum of what begins at byte " + std::to_string(frame_head_bytes) + " is wrong"});
  }
  if (version_ == kind_.version) return;
  throw Error(Code::other_version,
              {.why = "this is " + std::string(kind_.name) + " of version " + std::to_string(version_) +
                      "; this program knows version " + std::to_string(kind_.version)});
}

std::string_view take_out_of_frame(const FramedKind& kind, std::string_view bytes) {
  const FrameHead head(kind, bytes);
  Decoder in(bytes);
  in.bytes(frame_head_bytes);
  const std::string_view content = in.bytes(head.size());
  in.expect_end();
  head.check(content);
  return content;
}

}  // namespace sluice::detail
