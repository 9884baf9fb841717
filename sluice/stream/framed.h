// The frame of files that are written and read as a whole: a magic number, a version, the length of the content, a
// checksum over all of it. (docs/formats.md, "Checkpoint directories".)
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "sluice/runtime/errors.h"

namespace sluice::detail {

/// A kind of file.
struct FramedKind {
  /// The first four bytes.
  std::uint32_t magic = 0;
  /// What this program writes, and the only one that it reads.
  std::uint8_t version = 1;
  /// For errors: "a checkpoint".
  std::string_view name;
};

inline constexpr std::size_t frame_head_bytes = 13;

/// `content` in its frame.
std::string put_in_frame(const FramedKind& kind, std::string_view content);

/// What the frame at the begin of `bytes` is about. The checksum covers magic and version, too: a version that a
/// flipped bit has made is damage, for which there may be an older file, and no reason to refuse what is there.
class FrameHead {
 public:
  /// Errors: SLU-301 for another magic number, SLU-302.
  FrameHead(const FramedKind& kind, std::string_view bytes);
  /// Of the content.
  std::uint32_t size() const { return size_; }
  /// Errors: SLU-301 when it is not the content that was written, SLU-303 when it was by another version.
  void check(std::string_view content) const;

 private:
  const FramedKind& kind_;
  std::uint32_t checksum_before_ = 0;
  std::uint8_t version_ = 0;
  std::uint32_t size_ = 0;
  std::uint32_t checksum_ = 0;
};

/// The content of a file that is a frame and nothing more. Errors: those of FrameHead.
std::string_view take_out_of_frame(const FramedKind& kind, std::string_view bytes);

/// Calls f(); where it fails because of what a file holds, the error names the file.
template <class F>
auto naming_file(const std::string& path, const F& f) {
  try {
    return f();
  } catch (const Error& error) {
    switch (error.code()) {
      case Code::corrupt_data:
      case Code::truncated_data:
      case Code::other_version: throw Error(error.code(), {.why = path + ": " + error.details().why});
      default: throw;
    }
  }
}

}  // namespace sluice::detail
