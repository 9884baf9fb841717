// expect: sluice: this type cannot be encoded: it cannot be copied
#include "sluice/core/codec.h"

struct Handle {
  explicit Handle(int number) : number(number) {}
  Handle(Handle&&) = default;
  int number;
};

template <>
struct sluice::codec<Handle> {
  static void encode(const Handle& handle, sluice::Encoder& out) { sluice::encode(handle.number, out); }
  static Handle decode(sluice::Decoder& in) { return Handle(sluice::decode<int>(in)); }
};

const sluice::TypeOps& f() { return sluice::type_ops<Handle>(); }
