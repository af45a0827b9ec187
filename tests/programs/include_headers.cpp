#include "trajectory.h"
int main() { return deblurgan::philox(1, 2, 3, 4).v[0] == 0; }
