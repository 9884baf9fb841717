// Messages between processes of one program: the kind (1 byte), then the fields of a struct that has a constant `kind`,
// in the bytes of their codecs. All ends run the same build, so messages need no version.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "sluice/core/codec.h"

namespace sluice::detail {

/// What `encode_to` of a closure, of records or of a task writes.
template <class T>
std::string encoded(const T& value) {
  Encoder out;
  value.encode_to(out);
  return out.take();
}

template <class M>
std::string encode_message(const M& message) {
  Encoder out;
  out.u8(M::kind);
  encode(message, out);
  return out.take();
}

/// The kind of a message. SLU-302 for an empty one.
inline std::uint8_t message_kind(std::string_view message) { return Decoder(message).u8(); }

/// The fields of a message of that kind. Errors: SLU-301, SLU-302.
template <class M>
M decode_message(std::string_view message) {
  Decoder in(message);
  if (in.u8() != M::kind) in.fail_corrupt("not the kind of message that is due here");
  M decoded = decode<M>(in);
  in.expect_end();
  return decoded;
}

}  // namespace sluice::detail
